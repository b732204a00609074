//! How what was made becomes durable: two waits for the disk, however many layers and images there are.
//!
//! First the bytes of everything, which has no names yet, then the names, each after what it means. File systems keep renames
//! in their order, and where one did not, an image without all of its layers is forgotten at the next start. Only records that
//! lose a name, or that others have changed meanwhile, are waited for one by one.

use super::{State, Store, read};
use crate::{
    durable::Unnamed,
    image::{
        ImageError,
        additional::Additional,
        content::{Scratch, Writes, io, mark},
        records::{ImageRecord, LayerRecord},
        unpack::Unpacked,
    },
};

/// What a pull or an import has made.
pub struct Made {
    /// By chain ids.
    pub layers: Vec<(String, Scratch, Unpacked)>,
    pub images: Vec<MadeImage>,
}

/// An image whose layers are there or are made with it.
pub struct MadeImage {
    pub record: ImageRecord,
    /// Its documents by their digests, verified.
    pub documents: Vec<(String, Vec<u8>)>,
}

impl Store {
    /// Makes all of it durable, and names it. Images get their names in addition to those they have, and other images lose them.
    ///
    /// # Errors
    /// [`ImageError::Io`], also when the disk lost some of the `writes` before.
    pub fn commit(&self, made: Made, writes: &Writes) -> Result<(), ImageError> {
        let Made { layers, images } = made;
        let mut marked = Vec::new();
        for (chain_id, scratch, layer) in layers {
            let record = mark(&scratch, &chain_id, layer)?;
            marked.push((record, scratch));
        }
        let mut documents = Vec::new();
        for (digest, bytes) in images.iter().flat_map(|image| &image.documents) {
            documents.extend(self.content.new_blob(digest, bytes)?);
        }
        let mut records = Vec::new();
        for image in images {
            records.push(self.expect(image.record)?);
        }
        if !marked.is_empty() || !documents.is_empty() || records.iter().any(|record| record.file.is_some()) {
            writes.sync()?;
        }
        self.name(&marked, documents, records)?;
        for folder in ["layers", "blobs/sha256", "images"] {
            self.content.sync_folder(folder)?;
        }
        Ok(())
    }

    fn expect(&self, given: ImageRecord) -> Result<Expected, ImageError> {
        let record = among_others(&self.lock(), &self.additional, given.clone()).record;
        let file = match self.is_on_record(&record) {
            true => None,
            false => Some(self.unnamed(&record)?),
        };
        Ok(Expected { given, record, file })
    }

    fn name(
        &self,
        layers: &[(LayerRecord, Scratch)],
        documents: Vec<Unnamed>,
        records: Vec<Expected>,
    ) -> Result<(), ImageError> {
        // Removed when others may change something again.
        let mut trash = Vec::new();
        let _change = self.change();
        for (layer, scratch) in layers {
            trash.extend(self.content.name_layer(&layer.chain_id, scratch)?);
            // Known from here on, so that a sweep finds it if nothing comes of the image.
            self.has(&layer.chain_id);
        }
        let blobs = self.content.root.join("blobs/sha256");
        for document in documents {
            document.name().map_err(io("name a document in", &blobs))?;
        }
        records.into_iter().try_for_each(|record| self.name_image(record))
    }

    fn name_image(&self, expected: Expected) -> Result<(), ImageError> {
        let AmongOthers { record, others } = among_others(&self.lock(), &self.additional, expected.given);
        for other in others {
            self.write(&other)?;
            self.lock().images.insert(other.id.clone(), other);
        }
        match expected.file {
            Some(file) if record == expected.record => {
                let path = self.content.image(&record.id.0);
                file.name().map_err(io("name", &path))?;
            }
            _ if self.is_on_record(&record) => {}
            _ => self.write(&record)?,
        }
        self.lock().images.insert(record.id.clone(), record);
        Ok(())
    }

    /// Whether the disk has it as it is: memory may know of a write that failed half way.
    fn is_on_record(&self, record: &ImageRecord) -> bool {
        read(&self.content.image(&record.id.0)).as_ref() == Some(record)
    }
}

/// An image's record as it will be unless others change meanwhile.
struct Expected {
    /// What is to be added to what is on record.
    given: ImageRecord,
    record: ImageRecord,
    /// `None`: nothing is new.
    file: Option<Unnamed>,
}

/// A record with what was known of its image before, and the others that lose a name to it.
struct AmongOthers {
    record: ImageRecord,
    others: Vec<ImageRecord>,
}

fn among_others(state: &State, additional: &Additional, mut record: ImageRecord) -> AmongOthers {
    if let Some(known) = state.images.get(&record.id) {
        merge(&mut record.repo_tags, &known.repo_tags);
        merge(&mut record.repo_digests, &known.repo_digests);
        merge(&mut record.blobs, &known.blobs);
        record.keep_known((known.verdicts.clone(), known.signatures.clone()));
    } else if let Some(known) = additional.image(&record.id) {
        // Its documents are there, and of its names some may be another image's by now.
        let is_taken = |tag: &&String| state.images.values().any(|other| other.repo_tags.contains(tag));
        let free = known.repo_tags.iter().filter(|tag| !is_taken(tag)).cloned();
        merge(&mut record.repo_tags, &free.collect::<Vec<_>>());
        merge(&mut record.repo_digests, &known.repo_digests);
    }
    record.repo_tags.sort();
    record.repo_digests.sort();
    let loses = |other: &&ImageRecord| {
        other.id != record.id && other.repo_tags.iter().any(|tag| record.repo_tags.contains(tag))
    };
    let mut others: Vec<_> = state.images.values().filter(loses).cloned().collect();
    for other in &mut others {
        other.repo_tags.retain(|tag| !record.repo_tags.contains(tag));
    }
    AmongOthers { record, others }
}

fn merge(into: &mut Vec<String>, from: &[String]) {
    for name in from {
        if !into.contains(name) {
            into.push(name.clone());
        }
    }
}

#[cfg(test)]
mod test;
