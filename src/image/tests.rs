// SPDX-License-Identifier: GPL-2.0-only
//! Images that are whole, cut, changed, or no images at all.

use proptest::prelude::*;

use super::*;
use crate::proto::{record::Body, Association, Chunk, Path, Socket};

fn bodies() -> Vec<Body> {
    vec![
        Body::Socket(Socket {
            domain: 2,
            r#type: 1,
            nonblock: true,
            r#async: true,
            options: vec![],
        }),
        Body::Association(Association {
            id: Some(7),
            my_vtag: Some(0x0102_0304),
            paths: vec![Path {
                cwnd: Some(4380),
                ..Path::default()
            }],
            ..Association::default()
        }),
        Body::Chunk(Chunk {
            assoc_id: Some(7),
            data: Some(vec![9; 50]),
            ..Chunk::default()
        }),
    ]
}

fn image(bodies: Vec<Body>) -> Vec<u8> {
    let mut w = Writer::new(Vec::new(), sctp_header(1)).unwrap();
    for b in bodies {
        w.write(b).unwrap();
    }
    w.finish().unwrap()
}

fn read(bytes: &[u8]) -> Result<Vec<Body>> {
    let mut r = Reader::new(bytes)?;
    let mut all = Vec::new();
    while let Some(b) = r.next_record()? {
        all.push(b);
    }
    Ok(all)
}

#[test]
fn what_is_written_is_read() {
    assert_eq!(read(&image(bodies())).unwrap(), bodies());
}

#[test]
fn every_truncation_is_refused() {
    let whole = image(bodies());
    for n in 0..whole.len() {
        assert!(
            read(&whole[..n]).is_err(),
            "{n} bytes of {} were taken",
            whole.len()
        );
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let whole = image(bodies());
    for bit in 0..whole.len() * 8 {
        let mut bad = whole.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&bad).is_err(), "bit {bit} was not noticed");
    }
}

#[test]
fn bytes_after_the_end_are_refused() {
    let mut long = image(bodies());
    long.push(0);
    assert!(matches!(read(&long), Err(Error::Damaged(_))));
}

#[test]
fn another_version_and_kind_are_named() {
    let mut header = sctp_header(1);
    header.format_version = 99;
    let bytes = Writer::new(Vec::new(), header).unwrap().finish().unwrap();
    assert!(matches!(read(&bytes), Err(Error::Version(99))));
    let mut header = sctp_header(1);
    header.kind = "pfcp".into();
    let bytes = Writer::new(Vec::new(), header).unwrap().finish().unwrap();
    assert!(read(&bytes).unwrap_err().to_string().contains("\"pfcp\""));
}

#[test]
fn a_record_from_the_future_is_refused() {
    let mut bytes = MAGIC.to_vec();
    let mut record = {
        use prost::Message;
        crate::proto::Record {
            body: Some(Body::Header(sctp_header(1))),
        }
        .encode_to_vec()
    };
    let len = |r: &[u8]| u32::try_from(r.len()).unwrap().to_le_bytes();
    bytes.extend(len(&record));
    bytes.append(&mut record);
    let future = [0xfa, 0x01, 0x02, 0x08, 0x01]; // field 31, a message
    bytes.extend(len(&future));
    bytes.extend(future);
    assert!(matches!(read(&bytes), Err(Error::Unknown(1))));
}

#[test]
fn a_promised_gigabyte_is_not_believed() {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(u32::MAX.to_le_bytes());
    assert!(matches!(read(&bytes), Err(Error::Damaged(_))));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), magic: bool) {
        if magic {
            bytes.splice(0..0, MAGIC.iter().copied());
        }
        prop_assert!(read(&bytes).is_err());
    }

    #[test]
    fn chunks_of_any_content_round_trip(data in proptest::collection::vec(any::<u8>(), 0..70_000), tsn: u32) {
        let chunk = Body::Chunk(Chunk { tsn: Some(tsn), data: Some(data), ..Chunk::default() });
        prop_assert_eq!(read(&image(vec![chunk.clone()])).unwrap(), vec![chunk]);
    }
}
