// SPDX-License-Identifier: GPL-2.0-only
//! CRIU's own images of a network namespace, without our links.
//!
//! Where CRIU dumps a network namespace itself, it also dumps our links, their
//! addresses and routes. On restore it would look for links that nobody can
//! have made yet: their sockets come later. So before CRIU reads these images,
//! ours are taken out of them; they are made when their sockets are there.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use prost::Message;

use super::error::{Context, Result};
use super::sys;
use crate::gtp::network;
use crate::proto::GtpLink;

/// No record of these images is longer.
const LONGEST: usize = 1 << 20;
/// Type `EXTLINK` of a `net_device_entry` (CRIU's `images/netdev.proto`).
const EXTERNAL: i32 = 4;

/// What is looked at in a `net_device_entry`.
#[derive(Clone, PartialEq, Message)]
struct Device {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint32, tag = "2")]
    ifindex: u32,
    #[prost(string, tag = "5")]
    name: String,
}

/// Takes `links` out of the images in `dir`. Doing so twice changes nothing.
///
/// # Errors
/// An image cannot be read or replaced; it is as it was then.
pub(super) fn take_out(dir: BorrowedFd<'_>, links: &[GtpLink]) -> Result<()> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    let listed = fs::read_dir(path).doing(|| "cannot list the image directory")?;
    for entry in listed {
        let entry = entry.doing(|| "cannot list the image directory")?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("netdev-"));
        let Some(number) = number.and_then(|n| n.strip_suffix(".img")) else {
            continue;
        };
        let mut devices = Devices::default();
        replace(dir, &format!("netdev-{number}.img"), |from, to| {
            devices = sort_out(from, to, links)?;
            Ok(!devices.gone.is_empty())
        })?;
        let Devices { mut gone, kept } = devices;
        // Should an earlier try have ended after the first image, the others say nothing of links.
        // In another network namespace the index may be another device's.
        let taken = links.iter().map(|l| l.ifindex);
        gone.extend(taken.filter(|index| !kept.contains(index)));
        for kind in ["ifaddr", "route", "route6"] {
            replace(dir, &format!("{kind}-{number}.img"), |from, to| {
                entries(from, to, &gone)
            })?;
        }
    }
    Ok(())
}

/// Replaces an image by what `filter` makes of it, if it says that it differs.
fn replace(
    dir: BorrowedFd<'_>,
    name: &str,
    filter: impl FnOnce(&mut BufReader<File>, &mut BufWriter<File>) -> io::Result<bool>,
) -> Result<()> {
    let from = match sys::open_at(dir, name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.doing(|| format!("cannot open {name}"))?,
    };
    let temporary = format!("telecr-{name}.tmp");
    let what = || format!("cannot take the GTP links out of {name}");
    let to = sys::create_at(dir, &temporary).doing(what)?;
    let mut to = BufWriter::new(to);
    let done = filter(&mut BufReader::new(from), &mut to)
        .and_then(|differs| to.flush().map(|()| differs))
        .and_then(|differs| {
            if differs {
                sys::rename_at(dir, &temporary, name)?;
            } else {
                sys::remove_at(dir, &temporary);
            }
            Ok(())
        });
    if done.is_err() {
        sys::remove_at(dir, &temporary);
    }
    done.doing(what)
}

/// Interface indexes of a `netdev` image.
#[derive(Debug, Default, PartialEq)]
struct Devices {
    gone: HashSet<u32>,
    kept: HashSet<u32>,
}

/// Copies the entries of a `netdev` image but for external links that are
/// among `links`.
fn sort_out(from: &mut impl Read, to: &mut impl Write, links: &[GtpLink]) -> io::Result<Devices> {
    let mut magics = [0; 8];
    from.read_exact(&mut magics)?;
    to.write_all(&magics)?;
    let mut found = Devices::default();
    let mut len = [0; 4];
    while read_or_end(from, &mut len)? {
        let body = body(from, usize::try_from(u32::from_ne_bytes(len)).ok())?;
        let device = Device::decode(body.as_slice()).map_err(io::Error::other)?;
        let ours = |l: &GtpLink| l.name == device.name && l.ifindex == device.ifindex;
        if device.kind == EXTERNAL && links.iter().any(ours) {
            found.gone.insert(device.ifindex);
            continue;
        }
        found.kept.insert(device.ifindex);
        to.write_all(&len)?;
        to.write_all(&body)?;
    }
    Ok(found)
}

/// Copies what `ip address save` or `ip route save` has written, but for
/// entries of the links `gone`; answers whether there were any.
fn entries(from: &mut impl Read, to: &mut impl Write, gone: &HashSet<u32>) -> io::Result<bool> {
    const HEADER: usize = 16;
    let mut differs = false;
    let mut magic = [0; 4];
    if !read_or_end(from, &mut magic)? {
        return Ok(false);
    }
    to.write_all(&magic)?;
    let mut header = [0; HEADER];
    while read_or_end(from, &mut header)? {
        let [a, b, c, d, e, f, ..] = header;
        let len = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok();
        let padded = len.and_then(|l| l.next_multiple_of(4).checked_sub(HEADER));
        let payload = body(from, padded)?;
        let kind = u16::from_ne_bytes([e, f]);
        if network::names_one_of(kind, &payload, gone).map_err(io::Error::other)? {
            differs = true;
            continue;
        }
        to.write_all(&header)?;
        to.write_all(&payload)?;
    }
    Ok(differs)
}

fn body(from: &mut impl Read, len: Option<usize>) -> io::Result<Vec<u8>> {
    let len = len
        .filter(|l| *l <= LONGEST)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Fills `buf`; `false` at the end of the file.
fn read_or_end(from: &mut impl Read, buf: &mut [u8]) -> io::Result<bool> {
    let mut filled = 0;
    while let Some(rest) = buf.get_mut(filled..).filter(|r| !r.is_empty()) {
        match from.read(rest) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gtp0() -> GtpLink {
        GtpLink {
            name: "gtp0".into(),
            ifindex: 5,
            ..GtpLink::default()
        }
    }

    fn device(kind: i32, ifindex: u32, name: &str) -> Vec<u8> {
        let name = name.to_owned();
        let bytes = Device {
            kind,
            ifindex,
            name,
        }
        .encode_to_vec();
        let mut all = u32::try_from(bytes.len()).unwrap().to_ne_bytes().to_vec();
        all.extend(bytes);
        all
    }

    #[test]
    fn only_our_link_is_taken_out() {
        let magics = vec![1, 2, 3, 4, 5, 6, 7, 8];
        let (lo, eth0) = (device(1, 1, "lo"), device(EXTERNAL, 6, "eth0"));
        let ours = device(EXTERNAL, 5, "gtp0");
        let image = [&magics, &lo, &ours, &eth0].map(Vec::as_slice).concat();
        let mut out = Vec::new();
        let found = sort_out(&mut image.as_slice(), &mut out, &[gtp0()]).unwrap();
        let (gone, kept) = (HashSet::from([5]), HashSet::from([1, 6]));
        assert_eq!(found, Devices { gone, kept });
        assert_eq!(out, [&magics, &lo, &eth0].map(Vec::as_slice).concat());
    }

    #[test]
    fn the_same_index_in_another_network_namespace_stays() {
        let dir = std::env::temp_dir().join(format!("telecr-netimages-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let put = |name: &str, bytes: &[u8]| fs::write(dir.join(name), bytes).unwrap();
        let addresses = [vec![9; 4], address(5)].concat();
        put(
            "netdev-1.img",
            &[vec![0; 8], device(EXTERNAL, 5, "gtp0")].concat(),
        );
        put(
            "netdev-2.img",
            &[vec![0; 8], device(EXTERNAL, 5, "eth0")].concat(),
        );
        for image in ["ifaddr-1.img", "ifaddr-2.img"] {
            put(image, &addresses);
        }
        let opened = File::open(&dir).unwrap();
        take_out(std::os::fd::AsFd::as_fd(&opened), &[gtp0()]).unwrap();
        let left = |name: &str| fs::read(dir.join(name)).unwrap();
        let (first, second) = (left("ifaddr-1.img"), left("ifaddr-2.img"));
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(first, [9; 4]);
        assert_eq!(second, addresses);
    }

    fn address(ifindex: u32) -> Vec<u8> {
        let mut all = vec![24, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        all.extend([2, 32, 0, 0]);
        all.extend(ifindex.to_ne_bytes());
        all
    }

    #[test]
    fn only_our_addresses_are_taken_out() {
        let image = [vec![9; 4], address(1), address(5), address(2)].concat();
        let mut out = Vec::new();
        let gone = HashSet::from([5]);
        assert!(entries(&mut image.as_slice(), &mut out, &gone).unwrap());
        assert_eq!(out, [vec![9; 4], address(1), address(2)].concat());
        let mut again = Vec::new();
        assert!(!entries(&mut out.as_slice(), &mut again, &gone).unwrap());
        assert_eq!(again, out);
        assert!(entries(&mut &image[..30], &mut again, &gone).is_err());
    }

    proptest! {
        #[test]
        fn any_image_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = sort_out(&mut bytes.as_slice(), &mut Vec::new(), &[gtp0()]);
            let _ = entries(&mut bytes.as_slice(), &mut Vec::new(), &HashSet::from([5]));
        }
    }
}
