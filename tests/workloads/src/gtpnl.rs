// SPDX-License-Identifier: GPL-2.0-only
//! The GTP driver as its users drive it (libgtpnl): one message at a time, each acknowledged.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use crate::sys::owned;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const RTM_NEWLINK: u16 = 16;
const GENL_ID_CTRL: u16 = 16;

/// A netlink socket.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    seq: u32,
    family: u16,
}

fn attr(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    out.extend(len.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

impl Netlink {
    fn open(protocol: i32) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers are passed.
        let socket = owned(unsafe { libc::socket(libc::AF_NETLINK, kind, protocol) })?;
        Ok(Self {
            socket,
            seq: 0,
            family: 0,
        })
    }

    /// Sends one message and returns the payload of the answer, or the error in it.
    fn ask(&mut self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<Vec<u8>> {
        self.seq += 1;
        let mut msg = Vec::with_capacity(16 + payload.len());
        msg.extend(u32::try_from(16 + payload.len()).unwrap_or(0).to_ne_bytes());
        msg.extend(kind.to_ne_bytes());
        msg.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        msg.extend(self.seq.to_ne_bytes());
        msg.extend(0u32.to_ne_bytes());
        msg.extend(payload);
        let fd = self.socket.as_raw_fd();
        // SAFETY: `msg` lives over the call and has this length.
        let sent = unsafe { libc::send(fd, msg.as_ptr().cast(), msg.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut buf = [0u8; 4096];
        // SAFETY: `buf` lives over the call and has this length.
        let got = unsafe { libc::recv(fd, buf.as_mut_ptr().cast(), buf.len(), 0) };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        let answer = buf.get(..got).unwrap_or_default();
        let word = |at: usize| answer.get(at..at + 4).and_then(|b| b.try_into().ok());
        if answer.get(4..6) == Some(&[2, 0]) {
            match word(16).map_or(0, i32::from_ne_bytes) {
                0 => {}
                errno => return Err(io::Error::from_raw_os_error(-errno)),
            }
        }
        Ok(answer.get(16..).unwrap_or_default().to_vec())
    }

    /// Connects to the driver; it is loaded if need be.
    pub fn gtp() -> io::Result<Self> {
        let mut nl = Self::open(libc::NETLINK_GENERIC)?;
        let mut request = vec![3, 1, 0, 0]; // CTRL_CMD_GETFAMILY
        attr(&mut request, 2, b"gtp\0");
        let answer = nl.ask(GENL_ID_CTRL, 0, &request)?;
        let mut rest = answer.get(4..).unwrap_or_default();
        while let (Some(len), Some(kind)) = (rest.get(0..2), rest.get(2..4)) {
            let len = usize::from(len.try_into().map_or(4, u16::from_ne_bytes)).max(4);
            if kind == [1, 0] {
                let id = rest.get(4..6).and_then(|b| b.try_into().ok());
                nl.family = id.map_or(0, u16::from_ne_bytes);
            }
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        if nl.family == 0 {
            return Err(io::Error::other("the GTP driver has no number"));
        }
        Ok(nl)
    }

    /// The family's number, as a program remembers it.
    pub fn family(&self) -> u16 {
        self.family
    }

    /// Adds a GTPv1 tunnel of an IPv4 UE.
    pub fn add_v1(
        &mut self,
        link: u32,
        teids: [u32; 2],
        ms: [u8; 4],
        peer: [u8; 4],
    ) -> io::Result<()> {
        let mut p = vec![0, 1, 0, 0]; // GTP_CMD_NEWPDP
        attr(&mut p, 1, &link.to_ne_bytes());
        attr(&mut p, 2, &1u32.to_ne_bytes());
        attr(&mut p, 8, &teids[0].to_ne_bytes());
        attr(&mut p, 9, &teids[1].to_ne_bytes());
        attr(&mut p, 5, &ms);
        attr(&mut p, 4, &peer);
        self.new_pdp(&p)
    }

    /// Adds a GTPv1 tunnel of an IPv6 UE, whose address is a /64.
    pub fn add_v1_ipv6(
        &mut self,
        link: u32,
        teids: [u32; 2],
        ms: [u8; 16],
        peer: [u8; 4],
    ) -> io::Result<()> {
        let mut p = vec![0, 1, 0, 0];
        attr(&mut p, 1, &link.to_ne_bytes());
        attr(&mut p, 2, &1u32.to_ne_bytes());
        attr(&mut p, 8, &teids[0].to_ne_bytes());
        attr(&mut p, 9, &teids[1].to_ne_bytes());
        attr(&mut p, 13, &[10]);
        attr(&mut p, 12, &ms);
        attr(&mut p, 4, &peer);
        self.new_pdp(&p)
    }

    /// Adds a GTPv0 tunnel of an IPv4 UE.
    pub fn add_v0(
        &mut self,
        link: u32,
        tid: u64,
        flow: u16,
        ms: [u8; 4],
        peer: [u8; 4],
    ) -> io::Result<()> {
        let mut p = vec![0, 1, 0, 0];
        attr(&mut p, 1, &link.to_ne_bytes());
        attr(&mut p, 2, &0u32.to_ne_bytes());
        attr(&mut p, 3, &tid.to_ne_bytes());
        attr(&mut p, 6, &flow.to_ne_bytes());
        attr(&mut p, 5, &ms);
        attr(&mut p, 4, &peer);
        self.new_pdp(&p)
    }

    /// Reads the tunnels of all links and looks at none of them; answers how many bytes came.
    pub fn read_all(&mut self) -> io::Result<u64> {
        const NLM_F_DUMP: u16 = 0x300;
        const NLMSG_ERROR: [u8; 2] = [2, 0];
        const NLMSG_DONE: [u8; 2] = [3, 0];
        self.seq += 1;
        let mut msg = Vec::new();
        msg.extend(20u32.to_ne_bytes());
        msg.extend(self.family.to_ne_bytes());
        msg.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        msg.extend(self.seq.to_ne_bytes());
        msg.extend(0u32.to_ne_bytes());
        msg.extend([2, 1, 0, 0]); // GTP_CMD_GETPDP
        let fd = self.socket.as_raw_fd();
        // SAFETY: `msg` lives over the call and has this length.
        if unsafe { libc::send(fd, msg.as_ptr().cast(), msg.len(), 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut buf = vec![0u8; 64 * 1024];
        let mut bytes = 0;
        loop {
            // SAFETY: `buf` lives over the call and has this length.
            let got = unsafe { libc::recv(fd, buf.as_mut_ptr().cast(), buf.len(), 0) };
            bytes += u64::try_from(got).map_err(|_| io::Error::last_os_error())?;
            // The end comes alone.
            match buf.get(4..6).and_then(|b| b.try_into().ok()) {
                Some(NLMSG_DONE) => return Ok(bytes),
                Some(NLMSG_ERROR) => return Err(io::Error::other("the dump was refused")),
                _ => {}
            }
        }
    }

    fn new_pdp(&mut self, payload: &[u8]) -> io::Result<()> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.ask(self.family, flags, payload).map(drop)
    }
}

/// Creates a GTP link on the sockets and brings it up; answers its index.
pub fn create(name: &str, v0: RawFd, v1: RawFd, buckets: u32) -> io::Result<u32> {
    let mut data = Vec::new();
    attr(&mut data, 1, &v0.to_ne_bytes());
    attr(&mut data, 2, &v1.to_ne_bytes());
    attr(&mut data, 3, &buckets.to_ne_bytes());
    new_link(name, &data)
}

/// Creates a GTP link on sockets that the kernel makes, and brings it up; answers its index.
pub fn create_alone(name: &str, buckets: u32) -> io::Result<u32> {
    let mut data = Vec::new();
    attr(&mut data, 3, &buckets.to_ne_bytes());
    attr(&mut data, 5, &[1]);
    new_link(name, &data)
}

fn new_link(name: &str, data: &[u8]) -> io::Result<u32> {
    let mut info = Vec::new();
    attr(&mut info, 1, b"gtp\0");
    attr(&mut info, 2, data);
    let mut p = vec![0; 16]; // struct ifinfomsg
    for at in [8, 12] {
        // Flags and change mask: IFF_UP.
        if let Some(up) = p.get_mut(at) {
            *up = 1;
        }
    }
    attr(&mut p, 3, &[name.as_bytes(), b"\0"].concat());
    attr(&mut p, 18, &info);
    let mut nl = Netlink::open(libc::NETLINK_ROUTE)?;
    nl.ask(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &p)?;
    let name = CString::new(name)?;
    // SAFETY: `name` is a terminated string that lives over the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    match index {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}
