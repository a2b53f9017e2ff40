// SPDX-License-Identifier: GPL-2.0-only
//! The exchange on real processes, without SCTP and without CRIU: TCP
//! listeners stand in for SCTP sockets, a forked process for CRIU. Needs root.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::{Mutex, MutexGuard};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::dump::Dump;
use super::error::Result;
use super::guard::Ice;
use super::inject::Injector;
use super::journal::Journal;
use super::ptrace::{self, Stop};
use super::{handover, proc, scan};

/// Marks what was done to a socket in its priority, which all its copies share.
struct Mark;

const FROZEN: i32 = 3;
const THAWED: i32 = 5;

impl Ice for Mark {
    fn freeze(&mut self, socket: BorrowedFd<'_>) -> Result<()> {
        set_priority(socket.as_raw_fd(), FROZEN);
        Ok(())
    }

    fn thaw(&mut self, socket: BorrowedFd<'_>, _: bool) -> Result<()> {
        set_priority(socket.as_raw_fd(), THAWED);
        Ok(())
    }
}

fn open_mark() -> Result<Box<dyn Ice>> {
    Ok(Box::new(Mark))
}

fn set_priority(fd: RawFd, value: i32) {
    // SAFETY: `value` lives across the call.
    let ret = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_PRIORITY,
            (&raw const value).cast(),
            4,
        )
    };
    assert_eq!(ret, 0);
}

fn priority(fd: RawFd) -> i32 {
    let (mut value, mut len) = (0i32, 4);
    // SAFETY: both live across the call.
    let ret = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_PRIORITY,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    assert_eq!(ret, 0);
    value
}

/// Runs `work` in a child process, which ends when it returns.
fn spawn(work: impl FnOnce()) -> i32 {
    // SAFETY: the child only makes system calls and allocates little; it never returns.
    match unsafe { libc::fork() } {
        0 => {
            work();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(0) }
        }
        pid => pid,
    }
}

/// A server process; killed when dropped.
struct Server {
    pid: i32,
    listener: TcpListener,
}

impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: our own child.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        let _ = ptrace::wait(self.pid);
    }
}

/// Answers each connection with one byte; waits in `accept`, or in an epoll set.
fn server(with_epoll: bool) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let fd = listener.as_raw_fd();
    let pid = spawn(|| {
        let set = if with_epoll { watch(fd) } else { -1 };
        loop {
            if with_epoll && !ready(set, fd) {
                continue;
            }
            // SAFETY: plain integers, and a byte that lives across the call.
            unsafe {
                let peer = libc::accept4(
                    fd,
                    std::ptr::null_mut(),
                    std::ptr::null_mut(),
                    libc::SOCK_CLOEXEC,
                );
                if peer < 0 {
                    libc::_exit(1);
                }
                libc::write(peer, c"k".as_ptr().cast(), 1);
                libc::close(peer);
            }
        }
    });
    sleep(Duration::from_millis(50));
    Server { pid, listener }
}

fn watch(fd: RawFd) -> RawFd {
    // SAFETY: `event` lives across the call.
    unsafe {
        let set = libc::epoll_create1(0);
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: 0xfeed,
        };
        libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &raw mut event);
        set
    }
}

fn ready(set: RawFd, _fd: RawFd) -> bool {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: `event` lives across the call.
    let n = unsafe { libc::epoll_wait(set, &raw mut event, 1, -1) };
    n == 1 && { event.u64 } == 0xfeed && { event.events } & libc::EPOLLIN as u32 != 0
}

fn answers(server: &Server) -> bool {
    let Ok(mut stream) = TcpStream::connect(server.listener.local_addr().unwrap()) else {
        return false;
    };
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).is_ok() && byte == *b"k"
}

fn stop(pid: i32) {
    ptrace::seize(pid).unwrap();
    ptrace::interrupt(pid).unwrap();
    assert_eq!(ptrace::wait(pid).unwrap(), Stop::Event);
}

fn link(server: &Server) -> String {
    std::fs::read_link(format!(
        "/proc/{}/fd/{}",
        server.pid,
        server.listener.as_raw_fd()
    ))
    .unwrap()
    .to_string_lossy()
    .into_owned()
}

/// One test at a time, for each forks copies of all descriptors; `None` when not root.
fn turn() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    // SAFETY: always succeeds.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: needs root");
        return None;
    }
    Some(
        TURN.lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner),
    )
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !check() {
        assert!(begin.elapsed() < Duration::from_secs(10), "{what}");
        sleep(Duration::from_millis(5));
    }
}

fn there_and_back(with_epoll: bool) {
    let Some(_turn) = turn() else { return };
    let server = server(with_epoll);
    assert!(answers(&server));
    let maps = || std::fs::read_to_string(format!("/proc/{}/maps", server.pid)).unwrap();
    let before = (proc::descriptors(server.pid).unwrap(), maps());
    stop(server.pid);
    let registers = ptrace::regs(server.pid).unwrap();
    let plan = scan::scan(server.pid, libc::IPPROTO_TCP).unwrap();
    assert!(!plan.sockets.is_empty());
    assert_eq!(plan.sets.len(), usize::from(with_epoll));
    let journal = Journal::new().unwrap();

    handover::to_placeholders(&plan, &journal).unwrap();
    assert_eq!(link(&server), "anon_inode:[userfaultfd]");
    if with_epoll {
        let info = proc::read_fdinfo(server.pid, epoll_number(server.pid)).unwrap();
        let target = info.lines().find_map(proc::epoll_target).unwrap();
        let (dev, ino) = super::sys::file_id(plan.sockets[0].placeholder.as_fd()).unwrap();
        assert_eq!((target.dev, target.ino, target.data), (dev, ino, 0xfeed));
    }

    handover::to_sockets(&plan, plan.tasks.iter(), &journal).unwrap();
    assert!(journal.patient().is_none());
    let after = ptrace::regs(server.pid).unwrap();
    assert_eq!(
        super::arch::to_words(after),
        super::arch::to_words(registers)
    );
    assert_eq!((proc::descriptors(server.pid).unwrap(), maps()), before);
    ptrace::detach(server.pid).unwrap();
    assert!(answers(&server));
}

fn epoll_number(pid: i32) -> RawFd {
    let all = proc::descriptors(pid).unwrap();
    all.iter()
        .find(|(_, l)| l == "anon_inode:[eventpoll]")
        .unwrap()
        .0
}

#[test]
fn exchange_under_an_epoll_set() {
    there_and_back(true);
}

#[test]
fn exchange_under_a_blocked_call() {
    there_and_back(false);
}

/// A process that stands in for CRIU: stops the server, exchanges its sockets,
/// does `then`, lets go, and ends.
fn fake_criu(server: &Server, then: impl FnOnce(Dump)) -> i32 {
    fake_criu_for(server, libc::IPPROTO_TCP, then)
}

fn fake_criu_for(server: &Server, protocol: i32, then: impl FnOnce(Dump)) -> i32 {
    let pid = server.pid;
    spawn(|| {
        stop(pid);
        let dump = Dump::checkpoint_kind(pid, false, true, protocol, open_mark)
            .unwrap()
            .unwrap();
        then(dump);
        let _ = ptrace::detach(pid);
    })
}

/// A mapping that the program does not know, as CRIU's parasite is in.
fn page_for_code(inj: &mut Injector) -> u64 {
    let prot = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as u64;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let args = [0, 4096, prot, flags, u64::MAX, 0];
    inj.call("mmap", libc::SYS_mmap, args).unwrap()
}

#[test]
fn a_killed_criu_harms_nobody() {
    let Some(_turn) = turn() else { return };
    for with_epoll in [true, false] {
        let server = server(with_epoll);
        assert!(answers(&server));
        let criu = fake_criu(&server, |dump| {
            sleep(Duration::from_secs(60));
            drop(dump);
        });
        eventually("no placeholder came", || {
            link(&server).contains("userfaultfd")
        });
        sleep(Duration::from_millis(20));
        // SAFETY: our own child.
        unsafe { libc::kill(criu, libc::SIGKILL) };
        let _ = ptrace::wait(criu);
        eventually("the socket did not come back", || {
            link(&server).starts_with("socket:")
        });
        eventually("the socket stays frozen", || {
            priority(server.listener.as_raw_fd()) == THAWED
        });
        assert!(answers(&server));
    }
}

/// A gateway may have no SCTP socket; a kill while its threads run CRIU's code ends it all the same.
#[test]
fn a_killed_criu_harms_no_task_without_sockets() {
    let Some(_turn) = turn() else { return };
    let server = server(true);
    assert!(answers(&server));
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let pid = server.pid;
    let criu = fake_criu_for(&server, libc::IPPROTO_SCTP, |dump| {
        // In a mapping that was not there, as in a parasite: a jump to itself.
        let journal = Journal::new().unwrap();
        let mut inj = Injector::start(pid, &journal).unwrap();
        let page = page_for_code(&mut inj);
        inj.write(&[0xeb, 0xfe], page).unwrap();
        // CRIU gives its parasite its log; the name does not matter.
        inj.call(
            "memfd_create",
            libc::SYS_memfd_create,
            [page, 0, 0, 0, 0, 0],
        )
        .unwrap();
        inj.finish().unwrap();
        let mut regs = ptrace::regs(pid).unwrap();
        regs.rip = page;
        ptrace::set_regs(pid, &regs).unwrap();
        (&theirs).write_all(b"s").unwrap();
        sleep(Duration::from_secs(60));
        drop(dump);
    });
    ours.read_exact(&mut [0]).unwrap();
    // SAFETY: our own child.
    unsafe { libc::kill(criu, libc::SIGKILL) };
    let _ = ptrace::wait(criu);
    assert!(answers(&server));
    // Not a socket: it may be about to close that of the last answer.
    let left = |(_, link): &(RawFd, String)| link.starts_with("/memfd:");
    assert!(!proc::descriptors(pid).unwrap().iter().any(left));
}

/// As CRIU's parasite does: waits for its socket to be closed, and then lets the
/// program go on.
fn code_that_leaves(fd: u64, buffer: u64, program: u64) -> Vec<u8> {
    let mut code = vec![0x31, 0xc0, 0x48, 0xbf]; // xor eax, eax (read); mov rdi, fd
    code.extend(fd.to_le_bytes());
    code.extend([0x48, 0xbe]); // mov rsi, buffer
    code.extend(buffer.to_le_bytes());
    code.extend([0xba, 1, 0, 0, 0, 0x0f, 0x05, 0x48, 0xb8]); // mov edx, 1; syscall; mov rax, program
    code.extend(program.to_le_bytes());
    code.extend([0xff, 0xe0]); // jmp rax
    code
}

/// The tasks' way out of CRIU's code begins when CRIU's files are closed, before CRIU is gone.
#[test]
fn a_parasite_that_leaves_by_itself_does_not_outrun_the_guard() {
    let Some(_turn) = turn() else { return };
    let server = server(false);
    assert!(answers(&server));
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let pid = server.pid;
    let criu = fake_criu(&server, |dump| {
        let name = b"telecr-test-parasite";
        let listener =
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
        let journal = Journal::new().unwrap();
        let mut regs = ptrace::regs(pid).unwrap();
        let mut inj = Injector::start(pid, &journal).unwrap();
        let page = page_for_code(&mut inj);
        // AF_UNIX, and an abstract name.
        let address = [b"\x01\0\0", &name[..]].concat();
        inj.write(&address, page).unwrap();
        let args = [libc::AF_UNIX as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0];
        let fd = inj.call("socket", libc::SYS_socket, args).unwrap();
        let args = [fd, page, address.len() as u64, 0, 0, 0];
        inj.call("connect", libc::SYS_connect, args).unwrap();
        let _line = listener.accept().unwrap();
        let code = code_that_leaves(fd, page + 2048, super::arch::ip(&regs));
        inj.write(&code, page).unwrap();
        inj.finish().unwrap();
        regs.rip = page;
        regs.orig_rax = u64::MAX;
        ptrace::set_regs(pid, &regs).unwrap();
        ptrace::cont(pid, 0).unwrap();
        (&theirs).write_all(b"s").unwrap();
        sleep(Duration::from_secs(60));
        drop(dump);
    });
    ours.read_exact(&mut [0]).unwrap();
    sleep(Duration::from_millis(20));
    // SAFETY: our own child.
    unsafe { libc::kill(criu, libc::SIGKILL) };
    let _ = ptrace::wait(criu);
    eventually("the socket stays frozen", || {
        priority(server.listener.as_raw_fd()) == THAWED
    });
    assert!(answers(&server));
}

#[test]
fn tasks_that_live_on_are_thawed() {
    let Some(_turn) = turn() else { return };
    let server = server(true);
    let criu = fake_criu(&server, |dump| {
        dump.finish().unwrap();
        sleep(Duration::from_millis(100));
    });
    eventually("not frozen", || {
        priority(server.listener.as_raw_fd()) == FROZEN
    });
    eventually("not thawed", || {
        priority(server.listener.as_raw_fd()) == THAWED
    });
    assert!(answers(&server));
    let _ = ptrace::wait(criu);
}

#[test]
fn tasks_that_are_killed_are_not_thawed() {
    let Some(_turn) = turn() else { return };
    let server = server(true);
    let pid = server.pid;
    let criu = fake_criu(&server, |dump| {
        dump.finish().unwrap();
        // SAFETY: as CRIU does.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    });
    let _ = ptrace::wait(criu);
    eventually("not killed", || {
        proc::read_status(pid).is_ok_and(|s| s.state == 'Z')
    });
    sleep(Duration::from_millis(200));
    assert_eq!(priority(server.listener.as_raw_fd()), FROZEN);
}
