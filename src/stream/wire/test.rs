use bytes::BufMut;

use super::*;

/// Bytes that the public cannot be trusted with, or that it sent: mutations of a good conversation, and noise.
fn hostile(wire: Wire, seed: &mut u64) -> Vec<u8> {
    let mut bytes = conversation(wire);
    for _ in 0..random(seed) % 8 {
        let at = random(seed) as usize % bytes.len().max(1);
        match random(seed) % 4 {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), random(seed) as u8),
            2 if at < bytes.len() => bytes[at] ^= 1 << (random(seed) % 8),
            _ => bytes.extend((0..random(seed) % 64).map(|number| (number as u8) ^ at as u8)),
        }
    }
    bytes
}

/// xorshift: the same bytes at every run.
fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// A client that opens two streams, sends, pings, ends one and resets the other.
fn conversation(wire: Wire) -> Vec<u8> {
    let mut deflater = Deflater::default();
    let mut spdy = BytesMut::new();
    for (stream, kind) in [(1, "error"), (3, "data")] {
        let block = deflater.block(&Headers(vec![("streamtype".into(), kind.into())]));
        let fin = false;
        Frame::SynStream { stream, fin, block }.put(&mut spdy);
    }
    let data = |stream, fin, bytes: &'static [u8]| Frame::Data {
        stream,
        fin,
        bytes: bytes.into(),
    };
    data(3, false, b"hello").put(&mut spdy);
    data(1, true, b"").put(&mut spdy);
    Frame::Ping { id: 1 }.put(&mut spdy);
    Frame::RstStream { stream: 3, status: 5 }.put(&mut spdy);
    Frame::GoAway { last: 0, status: 0 }.put(&mut spdy);
    match wire {
        Wire::Spdy => spdy.to_vec(),
        Wire::Tunnel => [
            message(2, &spdy[..20]),
            message(9, b"ping"),
            message(2, &spdy[20..]),
            message(8, &[3, 232]),
        ]
        .concat(),
        Wire::Channels(Form::Base64) => [message(1, b"0aGVsbG8="), message(9, b""), message(8, b"")].concat(),
        Wire::Channels(_) => [message(2, b"\0hello"), message(2, b"\xff\0"), message(8, b"")].concat(),
    }
}

fn message(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_u8(0x80 | opcode);
    if payload.len() < 126 {
        out.put_u8(0x80 | payload.len() as u8);
    } else {
        out.put_u8(0x80 | 126);
        out.put_u16(payload.len() as u16);
    }
    let mask = [7, 1, 8, 2];
    out.put_slice(&mask);
    out.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    out.to_vec()
}

/// What `bytes` mean when they come `step` at a time; data of one stream joined.
fn read(wire: Wire, bytes: &[u8], step: usize) -> Result<Vec<Incoming>, WireError> {
    let (mut decoder, mut buffer, mut found) = (Decoder::new(wire), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        while let Some(incoming) = decoder.next(&mut buffer)? {
            match (found.last_mut(), incoming) {
                (
                    Some(Incoming::Data { stream, bytes, fin }),
                    Incoming::Data {
                        stream: same,
                        bytes: more,
                        fin: end,
                    },
                ) if *stream == same => {
                    *bytes = [&bytes[..], &more].concat().into();
                    *fin |= end;
                }
                (_, incoming) => found.push(incoming),
            }
        }
    }
    Ok(found)
}

const WIRES: [Wire; 4] = [
    Wire::Spdy,
    Wire::Tunnel,
    Wire::Channels(Form::Binary { closes: true }),
    Wire::Channels(Form::Base64),
];

#[test]
fn a_conversation_means_the_same_however_it_arrives() {
    for wire in WIRES {
        let bytes = conversation(wire);
        let whole = read(wire, &bytes, bytes.len()).unwrap();
        for step in 1..20 {
            assert_eq!(read(wire, &bytes, step).unwrap(), whole, "{wire:?} {step}");
        }
        assert_eq!(whole.last(), Some(&Incoming::GoAway), "{wire:?}");
    }
    let tunnelled = read(Wire::Tunnel, &conversation(Wire::Tunnel), 1000).unwrap();
    let bare = read(Wire::Spdy, &conversation(Wire::Spdy), 1000).unwrap();
    let pong = Incoming::Answer(Outgoing::Pong(Bytes::from_static(b"ping")));
    let without: Vec<_> = tunnelled.into_iter().filter(|incoming| *incoming != pong).collect();
    // A close frame of the tunnel follows the farewell inside it.
    assert_eq!(without[..bare.len()], bare);
}

/// A smoke run of what `tests/fuzz` does with a real fuzzer.
#[test]
fn hostile_bytes_are_errors_and_nothing_worse() {
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..5000 {
        for wire in WIRES {
            let bytes = hostile(wire, &mut seed);
            let step = 1 + random(&mut seed) as usize % 64;
            let _ = read(wire, &bytes, step);
        }
    }
}

#[test]
fn what_we_say_is_written_in_the_form_of_the_wire() {
    let data = Outgoing::Data {
        stream: 1,
        bytes: Bytes::from_static(b"hi"),
        fin: false,
    };
    let written = |wire| {
        let mut out = BytesMut::new();
        Encoder::new(wire).put(&data, &mut out);
        out.to_vec()
    };
    assert_eq!(written(Wire::Spdy), b"\0\0\0\x01\0\0\0\x02hi");
    assert_eq!(written(Wire::Tunnel), b"\x82\x0a\0\0\0\x01\0\0\0\x02hi");
    assert_eq!(written(WIRES[2]), b"\x82\x03\x01hi");
    assert_eq!(written(WIRES[3]), b"\x81\x051aGk=");
}
