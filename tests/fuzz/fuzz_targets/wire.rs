//! A client's bytes, over each way of writing: the same events however they are cut, or an error.
#![no_main]

use bytes::{Bytes, BytesMut};
use inro::stream::{
    websocket::channels::Form,
    wire::{Decoder, Incoming, Wire},
};
use libfuzzer_sys::fuzz_target;

const WIRES: [Wire; 5] = [
    Wire::Spdy,
    Wire::Tunnel,
    Wire::Channels(Form::Binary { closes: true }),
    Wire::Channels(Form::Binary { closes: false }),
    Wire::Channels(Form::Base64),
];

/// What the bytes mean, the data of one stream joined, and whether they were refused at the end.
fn read(wire: Wire, bytes: &[u8], step: usize) -> (Vec<Incoming>, bool) {
    let (mut decoder, mut buffer, mut found) = (Decoder::new(wire), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.next(&mut buffer) {
                Err(_) => return (found, true),
                Ok(None) => break,
                Ok(Some(incoming)) => push(&mut found, incoming),
            }
        }
    }
    (found, false)
}

fn push(found: &mut Vec<Incoming>, incoming: Incoming) {
    match incoming {
        // Where data is cut follows from where the bytes are; that some came at all does not.
        Incoming::Data { bytes, fin: false, .. } if bytes.is_empty() => {}
        Incoming::Data { stream, bytes, fin } => match found.last_mut() {
            Some(Incoming::Data {
                stream: same,
                bytes: before,
                fin: end,
            }) if *same == stream && !*end => {
                *before = Bytes::from([&before[..], &bytes].concat());
                *end = fin;
            }
            _ => found.push(Incoming::Data { stream, bytes, fin }),
        },
        other => found.push(other),
    }
}

fuzz_target!(|input: &[u8]| {
    let [wire, step, bytes @ ..] = input else { return };
    let wire = WIRES[usize::from(*wire) % WIRES.len()];
    let whole = read(wire, bytes, bytes.len().max(1));
    let cut = read(wire, bytes, usize::from(*step).max(1));
    // Base64 is checked group by group: what was good before a bad group may have been handed on or not.
    if wire == Wire::Channels(Form::Base64) && whole.1 {
        assert!(cut.1);
    } else {
        assert_eq!(whole, cut);
    }
});
