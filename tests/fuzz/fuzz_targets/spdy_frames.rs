//! What the frame reader takes for frames is written as the same frames again.
#![no_main]

use bytes::BytesMut;
use inro::stream::spdy::frame::{Decoder, Frame};
use libfuzzer_sys::fuzz_target;

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let (mut decoder, mut buffer, mut frames) = (Decoder::default(), BytesMut::from(bytes), Vec::new());
    while let Ok(Some(frame)) = decoder.next(&mut buffer) {
        frames.push(frame);
    }
    frames
}

fuzz_target!(|bytes: &[u8]| {
    let read = frames(bytes);
    let mut written = BytesMut::new();
    read.iter().for_each(|frame| frame.put(&mut written));
    assert_eq!(frames(&written), read);
});
