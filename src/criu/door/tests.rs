// SPDX-License-Identifier: GPL-2.0-only
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::lock::in_namespace;

fn sleeper() -> Child {
    Command::new("sleep").arg("60").spawn().unwrap()
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Where [`first_thread_apart`] takes its other thread.
const HOME: &str = "TELECR_TEST_HOME";

/// A process of which but the first thread is in the network namespace of the caller.
fn runtime() -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "criu::door::tests::first_thread_apart",
            "--nocapture",
        ])
        .env(HOME, format!("/proc/{}/ns/net", std::process::id()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines
        .map_while(std::result::Result::ok)
        .any(|l| l.ends_with("apart")));
    child
}

#[test]
#[ignore = "a process that others are tried on"]
fn first_thread_apart() {
    let Ok(home) = std::env::var(HOME) else {
        return;
    };
    let away = std::thread::spawn(move || {
        sys::enter_netns(File::open(home).unwrap().as_fd()).unwrap();
        println!("apart");
        std::thread::sleep(lock::LIMIT);
    });
    away.join().unwrap();
}

/// What is left of a locked network namespace when a restore lets packets in to `child`.
fn let_in(child: &Child) -> lock::Status {
    lock::lock_everything(lock::LIMIT).unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    Door::default().let_in(pid, false).unwrap();
    lock::status().unwrap()
}

fn is_shared(child: &Child) -> bool {
    let pid = i32::try_from(child.id()).unwrap();
    Door::default().is_shared(pid).unwrap()
}

#[test]
fn others_in_a_network_namespace_are_seen() {
    let ours = sleeper();
    assert!(!is_shared(&ours), "a host's network was taken for a pod's");
    end(ours);
    in_namespace(|| {
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let (first, second) = (sleeper(), sleeper());
        assert!(is_shared(&first));
        let locked = let_in(&first);
        assert_eq!(locked.everything, None);
        assert!(locked.addresses.contains_key(&LOOPBACK), "{locked:?}");
        end(second);
        assert!(!is_shared(&first));
        let podman = runtime();
        assert!(!is_shared(&first), "a runtime was taken for a container");
        lock::unlock_all().unwrap();
        assert!(let_in(&first).is_empty());
        end(podman);
        end(first);
    });
}

#[test]
fn what_a_failed_restore_has_locked_ahead_does_not_stay() {
    in_namespace(|| {
        let ours: Place = (IpAddr::from([192, 0, 2, 1]), Port::sctp(36412));
        let other: Place = (IpAddr::from([192, 0, 2, 2]), Port::sctp(36412));
        doorstep::lock(&[ours, other], lock::LIMIT).unwrap();
        let mut door = Door {
            places: HashSet::from([ours]),
            ..Door::default()
        };
        let task = sleeper();
        door.let_in(i32::try_from(task.id()).unwrap(), false)
            .unwrap();
        end(task);
        let left: Vec<Place> = lock::status().unwrap().doorstep.into_keys().collect();
        assert_eq!(left, [other]);
    });
}

#[test]
fn a_lock_that_is_there_lasts_for_a_whole_restore_more() {
    in_namespace(|| {
        let _netns = File::open("/proc/thread-self/ns/net").unwrap();
        let soon = lock::LIMIT / 10;
        lock::lock_everything(soon).unwrap();
        lock::lock(&[LOOPBACK], soon).unwrap();
        keep_locked();
        let now = lock::status().unwrap();
        assert!(now.everything > Some(lock::LIMIT / 2), "{now:?}");
        assert!(now.addresses[&LOOPBACK] > lock::LIMIT / 2, "{now:?}");
    });
}
