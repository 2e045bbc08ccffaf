//! What holds for all bytes and all frames.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{Decoder, Encoder, Error, Frame, Headers, Setting};

fn headers() -> impl Strategy<Value = Headers> {
    let pairs = vec(("[a-z-]{1,12}", "\\PC{0,40}"), 0..6);
    pairs.prop_map(|pairs| {
        pairs
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect()
    })
}

fn frame() -> impl Strategy<Value = Frame> {
    let id = || 1u32..1 << 31;
    let word = || 0u32..1 << 31;
    let setting = (any::<u8>(), 0u32..1 << 24, any::<u32>());
    let setting = setting.prop_map(|(flags, id, value)| Setting { flags, id, value });
    prop_oneof![
        (id(), word(), 0u8..8, any::<[bool; 2]>(), headers()).prop_map(
            |(id, associated, priority, [fin, unidirectional], headers)| {
                Frame::SynStream {
                    id,
                    associated,
                    priority,
                    fin,
                    unidirectional,
                    headers,
                }
            }
        ),
        (id(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynReply {
            id,
            fin,
            headers
        }),
        (id(), any::<u32>()).prop_map(|(id, status)| Frame::RstStream { id, status }),
        (any::<bool>(), vec(setting, 0..5))
            .prop_map(|(clear, settings)| Frame::Settings { clear, settings }),
        any::<u32>().prop_map(|id| Frame::Ping { id }),
        (word(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
        (id(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::Headers {
            id,
            fin,
            headers
        }),
        (word(), word()).prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
        (id(), any::<bool>(), vec(any::<u8>(), 0..300)).prop_map(|(id, fin, data)| {
            Frame::Data {
                id,
                fin,
                data: data.into(),
            }
        }),
    ]
}

/// Data comes in pieces: puts those of one frame together again.
fn join(frames: Vec<Frame>, piece: Frame) -> Vec<Frame> {
    let mut frames = frames;
    match (frames.last_mut(), piece) {
        (
            Some(Frame::Data {
                id,
                fin: false,
                data,
            }),
            Frame::Data {
                id: next,
                fin,
                data: more,
            },
        ) if *id == next => {
            let data = [data.as_ref(), &more].concat().into();
            frames.pop();
            frames.push(Frame::Data {
                id: next,
                fin,
                data,
            });
        }
        (_, piece) => frames.push(piece),
    }
    frames
}

/// Decodes what comes in pieces of this size.
fn decode(bytes: &[u8], piece: usize) -> Result<Vec<Frame>, Error> {
    let (mut decoder, mut read, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        read.extend_from_slice(piece);
        while let Some(frame) = decoder.decode(&mut read)? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

fn encode(frames: &[Frame]) -> BytesMut {
    let (mut encoder, mut bytes) = (Encoder::new().expect("a context"), BytesMut::new());
    for frame in frames {
        encoder.encode(frame, &mut bytes).expect("small frames");
    }
    bytes
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(frames in vec(frame(), 0..12), piece in 1usize..400) {
        let got = decode(&encode(&frames), piece).expect("our own bytes");
        let all = |frames: Vec<Frame>| frames.into_iter().fold(Vec::new(), join);
        prop_assert_eq!(all(got), all(frames));
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..600), piece in 1usize..100) {
        _ = decode(&bytes, piece);
    }

    /// Random bytes seldom look like frames: these are frames with some bytes wrong.
    #[test]
    fn no_damage_panics(frames in vec(frame(), 1..6), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = encode(&frames);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        _ = decode(&bytes, 64);
    }
}

#[test]
fn bytes_of_frames() {
    let table: [(Frame, &[u8]); 6] = [
        (
            Frame::Ping { id: 7 },
            &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7],
        ),
        (
            Frame::RstStream { id: 1, status: 5 },
            &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 5],
        ),
        (
            Frame::GoAway { last: 9, status: 0 },
            &[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 0],
        ),
        (
            Frame::WindowUpdate { id: 0, delta: 256 },
            &[0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 1, 0],
        ),
        (
            Frame::Settings {
                clear: true,
                settings: vec![Setting {
                    flags: 2,
                    id: 7,
                    value: 1,
                }],
            },
            &[
                0x80, 3, 0, 4, 1, 0, 0, 12, 0, 0, 0, 1, 2, 0, 0, 7, 0, 0, 0, 1,
            ],
        ),
        (
            Frame::Data {
                id: 3,
                fin: true,
                data: Bytes::from_static(b"hi"),
            },
            &[0, 0, 0, 3, 1, 0, 0, 2, b'h', b'i'],
        ),
    ];
    for (frame, bytes) in table {
        assert_eq!(encode(std::slice::from_ref(&frame)), bytes, "{frame:?}");
        assert_eq!(decode(bytes, bytes.len()), Ok(vec![frame]));
    }
}

#[test]
fn what_is_refused_and_what_is_ignored() {
    let table: [(&[u8], Result<usize, Error>); 8] = [
        (
            &[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1],
            Err(Error::Version),
        ),
        (&[0x80, 3, 0, 1, 0, 1, 0, 1], Err(Error::TooLarge)),
        (&[0x80, 3, 0, 6, 0, 0, 0, 3, 0, 0, 1], Err(Error::Frame)),
        (
            &[0x80, 3, 0, 6, 0, 0, 0, 5, 0, 0, 0, 1, 0],
            Err(Error::Frame),
        ),
        (
            &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1],
            Err(Error::Frame),
        ),
        (
            &[0x80, 3, 0, 4, 0, 0, 0, 4, 255, 255, 255, 255],
            Err(Error::Frame),
        ),
        (&[0, 0, 0, 0, 0, 0, 0, 1, 1], Err(Error::Frame)),
        (
            &[0x80, 3, 0, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0],
            Ok(1),
        ),
    ];
    for (bytes, want) in table {
        let frames = decode(bytes, bytes.len()).map(|frames| frames.len());
        assert_eq!(frames, want, "{bytes:?}");
    }
}

#[test]
fn long_data_is_cut_to_frames_and_read_in_pieces() {
    let data = Bytes::from(vec![7; (1 << 24) + 5]);
    let bytes = encode(&[Frame::Data {
        id: 1,
        fin: true,
        data: data.clone(),
    }]);
    assert_eq!(bytes.len(), data.len() + 2 * 8);
    let pieces = decode(&bytes, 100_000).expect("our own bytes");
    assert!(pieces.len() > 160, "not kept until all is there");
    let of = |frame: &Frame| match frame {
        Frame::Data { id: 1, fin, data } => (*fin, data.clone()),
        other => panic!("{other:?}"),
    };
    let (fins, got): (Vec<bool>, Vec<Bytes>) = pieces.iter().map(of).unzip();
    assert_eq!(fins.iter().position(|fin| *fin), Some(fins.len() - 1));
    assert!(got.concat() == data, "the same bytes");
}
