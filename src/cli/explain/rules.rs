// SPDX-License-Identifier: GPL-2.0-only
//! What CRIU's lines mean, and what to do.

use regex_lite::Regex;

/// A line of a log, its cause and its cure.
pub(super) struct Rule {
    /// Matched against the line's text, with the text of the line before it in
    /// front, on a line of its own.
    line: &'static str,
    /// May name groups of `line`, as `$1`.
    cause: &'static str,
    /// The same.
    cure: &'static str,
}

const fn rule(line: &'static str, cause: &'static str, cure: &'static str) -> Rule {
    Rule { line, cause, cure }
}

/// Lines that say "Error" in runs that succeed, or that only repeat that something failed.
const NOISE: &str = r"(?x) ^tun:\ Unable\ to\ create\ tun | (Dumping|Restoring)\ FAILED | killed\ by\ signal\ 9
    | Unable\ to\ open\ fd= | Dump\ files\ \(pid | Unable\ to\ restore\ 0x | exited,\ status= | Can't\ open\ (cwd|vma|file\ [^\n]+:\ No\ such)
    | Unable\ to\ detach\ from | Can't\ dump\ page\ with\ parasite";

/// The first that matches a line explains it.
const RULES: &[Rule] = &[
    // The plugin.
    rule(
        r"Unsupported proto 132",
        "the process has an SCTP socket, and CRIU has not loaded telecr's plugin",
        "install telecr, which puts telecr_plugin.so into /usr/lib/criu; where CRIU is given another folder \
         (--lib, CRIU_LIBS_DIR), put it there; telecr check",
    ),
    rule(
        r"Missing required plugin: telecr",
        "the checkpoint holds SCTP sockets or GTP links, and CRIU on this host has not loaded telecr's plugin",
        "install telecr on this host too, then restore again: the images are good; telecr check",
    ),
    rule(
        r"Missing required plugin: (\S+)",
        "the checkpoint was made with the CRIU plugin $1, which is not on this host",
        "install the plugin $1 on this host, then restore again",
    ),
    rule(
        r"Unable to load (\S*telecr_plugin.so): (.*)",
        "telecr's plugin does not load: $2",
        "install the telecr package made for this Debian release",
    ),
    rule(
        r"Unable to open directory (\S+):",
        "CRIU's plugin folder $1 is not there",
        "give the folder that holds telecr_plugin.so by its full path: criu --lib /usr/lib/criu",
    ),
    // CRIU, kernel and processor.
    rule(
        r"Can't get 1:(16|34) opt: Operation not supported",
        "this CRIU is too old for this kernel: before 4.2 it cannot dump sockets on Linux 6.16 and later",
        "install CRIU 4.2 or later, or boot an older kernel",
    ),
    rule(
        r"(Not supported images version|Too old image)",
        "the images were written by a CRIU of another age",
        "install the CRIU that made the dump (criu --version) on this host",
    ),
    rule(
        r"(?i)(CPU|FPU)[^\n]*(do not match|required by image|mismatch)",
        "the process uses processor features that this host lacks",
        "restore on a host with the same processor, or give dump and restore --cpu-cap=none if the program does \
         without those features",
    ),
    rule(
        r"Diag module missing",
        "the kernel cannot list sockets of one kind",
        "modprobe -a inet_diag tcp_diag udp_diag unix_diag netlink_diag packet_diag raw_diag",
    ),
    // Who may do it, to whom.
    rule(
        r"(CRIU needs to have the CAP_SYS_ADMIN|Effective capability \d+ missing)",
        "CRIU lacks privileges",
        "run it as root",
    ),
    rule(
        r"Unable to interrupt task: (\d+) \(No such process\)",
        "there is no process $1",
        "give the process id as this host sees it: ps -e",
    ),
    rule(
        r"Unable to interrupt task: (\d+) \(Operation not permitted\)",
        "process $1 cannot be traced: another tracer (strace, a debugger, a second CRIU) holds it, or CRIU may not",
        "end the tracer that `grep TracerPid /proc/$1/status` names, or run CRIU as root",
    ),
    // What the process holds.
    rule(
        r"Connected TCP socket, consider",
        "the process has an established TCP connection",
        "criu dump --tcp-established (podman container checkpoint --tcp-established), and the same at restore; or \
         --tcp-close to drop the connection",
    ),
    rule(
        r"Connected TCP socket in image",
        "the checkpoint holds an established TCP connection",
        "criu restore --tcp-established (podman container restore --tcp-established)",
    ),
    rule(
        r"Need to set the --tcp-close",
        "the dump was made with --tcp-close",
        "criu restore --tcp-close",
    ),
    rule(
        r"In-flight connection",
        "a TCP connection waits to be accepted",
        "criu dump --skip-in-flight: the peer tries again; or dump once more",
    ),
    rule(
        r"(dangling tty|not a session leader|slave peer index|Task attached to shell terminal|process tree can only be restored)",
        "the process belongs to a shell or its terminal, which does not move along",
        "start the program under setsid with its output in a file; or give dump and restore --shell-job",
    ),
    rule(
        r"Some file locks are hold",
        "the process holds a file lock",
        "criu dump --file-locks (podman container checkpoint --file-locks), and the same at restore",
    ),
    rule(
        r"(External socket is used|half of stream unix connection)",
        "the other end of a unix socket is in a process that is not dumped",
        "dump both ends together (-t of their common parent); or --ext-unix-sk for datagram sockets, at restore too",
    ),
    rule(
        r"Can't create link remap for (.+)\. Use",
        "the process holds the file $1 open, which was deleted while another link to it is left",
        "criu dump --link-remap",
    ),
    rule(
        r"Can't dump ghost file (.+) of (\d+) size",
        "the process holds the deleted file $1 open, whose $2 bytes are more than CRIU takes along",
        "criu dump --ghost-limit $2",
    ),
    rule(
        r"has unreachable sharing",
        "the process lives in a mount namespace that receives mounts from the host",
        "criu dump --external 'mnt[]:m' for bind mounts, or start it with `unshare -m --propagation private`; a \
         container's runtime takes care of it",
    ),
    rule(
        r"Can't dump file (\d+) of that type \[\d+\] \((.+)\)",
        "descriptor $1 is of a kind that CRIU cannot carry: $2",
        "have the program close it, or a CRIU plugin carry it",
    ),
    // Files and addresses on the destination.
    rule(
        r"Can't open file (.+) on restore: No such file or directory",
        "/$1, which the process has open or works in, is not on this host",
        "copy /$1 to the same place, then restore again",
    ),
    rule(
        r"File (.+) has bad (size|build-ID|mode)[^\n]*",
        "/$1 is not the file it was at the dump: its $2 differs",
        "copy /$1 from the source, so that both hosts have the same, then restore again",
    ),
    rule(
        r"Can't bind inet socket[^\n]*: Cannot assign requested address",
        "an address the process listens on is not on this host",
        "`telecr lock` the addresses of its SCTP sockets, `ip address add` what the source had, then restore again",
    ),
    rule(
        r"Can't bind inet socket[^\n]*: Address already in use",
        "a port the process listens on is taken on this host",
        "end the program that `ss -tulnp` names, then restore again",
    ),
    rule(
        r"Can't (?:fork for|clone) (\d+): File exists",
        "process id $1 is taken on this host",
        "end the process that has it; or restore in a pid namespace of its own: unshare -pf --mount-proc criu restore",
    ),
    rule(
        r"No inventory\.img image\n[^\n]*Unexpected EOF on \(empty-image\)",
        "there is no checkpoint in the image folder",
        "give restore the folder that was given to dump (-D), copied whole",
    ),
    rule(
        r"No (\S+\.img) image\n[^\n]*Unexpected EOF on \(empty-image\)",
        "the image $1 is missing: the checkpoint is not whole",
        "copy the whole image folder from the source again",
    ),
    rule(
        r"(Unexpected EOF|Img trimmed|image file was truncated|[Mm]agic doesn't match)",
        "an image is cut short or damaged",
        "copy the whole image folder from the source again",
    ),
    rule(
        r"No space left on device",
        "the disk of the image folder is full",
        "make room, or give another folder (-D); the process runs on",
    ),
    rule(
        r"Script (\S+) exited with (\d+)",
        "the action script $1 ended with $2",
        "mend the script, or leave out --action-script",
    ),
    rule(
        r"Can't (?:find|lookup) mount",
        "the process uses a mount that CRIU cannot see",
        "name it: --external 'mnt[PLACE]:NAME' at dump and restore",
    ),
];

/// The rules, ready for use.
pub(super) struct Rules {
    known: Vec<(Regex, &'static Rule)>,
    noise: Regex,
}

impl Rules {
    pub(super) fn new() -> Result<Self, regex_lite::Error> {
        let known = RULES.iter().map(|r| Ok((Regex::new(r.line)?, r)));
        Ok(Self {
            known: known.collect::<Result<_, _>>()?,
            noise: Regex::new(NOISE)?,
        })
    }

    /// Does the line say nothing about the cause?
    pub(super) fn is_noise(&self, text: &str) -> bool {
        self.noise.is_match(text)
    }

    /// Cause and cure of a line, which follows `before`.
    pub(super) fn explain(&self, before: &str, text: &str) -> Option<(String, String)> {
        let both = format!("{before}\n{text}");
        self.known.iter().find_map(|(line, rule)| {
            let groups = line
                .captures(&both)
                // Lines are explained one by one: what lies in the one before has been seen.
                .filter(|g| g.get(0).is_some_and(|m| m.end() > before.len()))?;
            let fill = |template: &str| {
                let mut filled = String::new();
                groups.expand(template, &mut filled);
                filled
            };
            Some((fill(rule.cause), fill(rule.cure)))
        })
    }
}
