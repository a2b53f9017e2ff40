// SPDX-License-Identifier: GPL-2.0-only
//! What the targets in `fuzz/` call, which `cargo fuzz` builds with `--cfg fuzzing`. They come to private decoders here.

use prost::Message as _;

use crate::gtp::pdp::Pdp;
use crate::gtp::{columns, link};
use crate::image::Reader;
use crate::netlink::message::{verdict, Messages};
use crate::netlink::{Attrs, Writer};
use crate::proto::record::Body;
use crate::proto::{Association, Chunk, Endpoint, Record, Streams};
use crate::sctp::table::Carried;

/// Bytes as an image, and as one of its records: a checksum keeps mutations out of those of a whole image.
pub fn image(bytes: &[u8]) {
    if let Ok(mut reader) = Reader::new(bytes) {
        while let Ok(Some(body)) = reader.next_record() {
            record(body);
        }
    }
    if let Ok(Record { body: Some(body) }) = Record::decode(bytes) {
        record(body);
    }
}

fn record(body: Body) {
    match body {
        Body::Endpoint(m) => to_kernel_and_back(&m),
        Body::Association(m) => to_kernel_and_back(&m),
        Body::Streams(m) => to_kernel_and_back(&m),
        Body::Chunk(m) => to_kernel_and_back(&m),
        Body::GtpTunnels(m) => {
            if let Ok(tunnels) = columns::tunnels(&m) {
                tunnels.for_each(drop);
            }
        }
        _ => {}
    }
}

/// What the kernel would be told reads as what the image says.
fn to_kernel_and_back<T: Carried + PartialEq + std::fmt::Debug>(message: &T) {
    let mut out = Writer::new();
    if message.to_attrs(&mut out).is_ok() {
        assert_eq!(
            T::from_attrs(Attrs::new(out.bytes())).ok().as_ref(),
            Some(message)
        );
    }
}

/// Bytes as messages of netlink, with each of the payloads that telecr reads.
pub fn netlink(bytes: &[u8]) {
    for message in Messages(bytes) {
        let Ok(message) = message else { return };
        let _ = verdict(&message);
        let _ = link::read(message.payload);
        let _ = crate::sctp::list::diag::parse(message.payload);
        let attrs = || Attrs::new(message.payload.get(4..).unwrap_or_default());
        let _ = Pdp::read(attrs());
        let _ = Endpoint::from_attrs(attrs());
        let _ = Association::from_attrs(attrs());
        let _ = Streams::from_attrs(attrs());
        let _ = Chunk::from_attrs(attrs());
    }
}
