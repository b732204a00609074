//! Manifests, indexes and configs: read or refused in few words, and a digest that is read is one.
#![no_main]

use inro::image::{
    manifest::{self, Document, OCI_INDEX, OCI_MANIFEST},
    reference::check_digest,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [kind, bytes @ ..] = input else { return };
    let served = [OCI_INDEX, OCI_MANIFEST, ""][usize::from(*kind) % 3];
    match manifest::parse(bytes, served) {
        Ok(Document::Index(index)) => {
            assert!(index.iter().all(|entry| check_digest(&entry.digest).is_ok()));
            let _ = manifest::select(&index);
        }
        Ok(Document::Image { config, layers }) => {
            assert!(layers.iter().all(|layer| check_digest(&layer.digest).is_ok()));
            let _ = manifest::size(&config, &layers);
        }
        Ok(Document::Artifact(artifact)) => {
            assert!(artifact.parts.iter().all(|part| check_digest(&part.blob.digest).is_ok()));
        }
        Err(error) => assert!(error.to_string().len() < 2000),
    }
    if let Ok((_, diff_ids)) = manifest::config(bytes, usize::from(*kind)) {
        assert_eq!(diff_ids.len(), usize::from(*kind));
    }
});
