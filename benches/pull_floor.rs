//! What no pull can do without: layers read, hashed, decompressed, hashed again and written, two of them at a time.
//!
//! ```text
//! cargo bench --bench pull_floor -- FOLDER LAYER...     # prints the seconds it took, syncfs included
//! ```
//! Every layer's bytes land in one new file of FOLDER: no registry, no tar, no names. `benches/peers/pull.py` runs it beside
//! runtimes that pull the same layers.

use std::{
    env,
    fs::File,
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::Instant,
};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

const THREADS: usize = 2;
const PIECE: usize = 128 << 10;

fn main() -> io::Result<()> {
    let mut arguments = env::args_os()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .map(PathBuf::from);
    let (Some(folder), layers) = (arguments.next(), arguments.collect::<Vec<_>>()) else {
        return Err(io::Error::other("name a folder and layers"));
    };
    let began = Instant::now();
    let queue = Mutex::new(layers.iter().enumerate());
    thread::scope(|scope| {
        let worker = || -> io::Result<()> {
            while let Some((number, layer)) = { queue.lock().expect("nobody panics").next() } {
                unpack(layer, &folder.join(number.to_string()))?;
            }
            Ok(())
        };
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("nobody panics"))
    })?;
    rustix::fs::syncfs(File::open(&folder)?)?;
    println!("{:.4}", began.elapsed().as_secs_f64());
    Ok(())
}

/// Writes a layer's bytes, and forgets both digests.
fn unpack(layer: &Path, to: &Path) -> io::Result<()> {
    let mut compressed = Hashed(File::open(layer)?, Sha256::new());
    let mut magic = [0; 2];
    File::open(layer)?.read_exact(&mut magic)?;
    let mut plain: Box<dyn Read + '_> = if magic == [0x1f, 0x8b] {
        Box::new(MultiGzDecoder::new(BufReader::with_capacity(PIECE, &mut compressed)))
    } else {
        Box::new(zstd::stream::read::Decoder::new(&mut compressed)?)
    };
    let (mut file, mut hash, mut piece) = (File::create_new(to)?, Sha256::new(), vec![0; PIECE]);
    loop {
        let count = plain.read(&mut piece)?;
        if count == 0 {
            break;
        }
        hash.update(&piece[..count]);
        file.write_all(&piece[..count])?;
    }
    drop(plain);
    std::hint::black_box((hash.finalize(), compressed.1.finalize()));
    Ok(())
}

struct Hashed<R>(R, Sha256);

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1.update(&buffer[..count]);
        Ok(count)
    }
}
