// SPDX-License-Identifier: GPL-2.0-only
//! The blocks of README.md that its readers paste: scenarios run them as they stand there.

use anyhow::{Context, Result};

const README: &str = include_str!("../../../README.md");

/// Block `number`, from 0 on, of the section below a heading.
pub fn block(heading: &str, number: usize) -> Result<String> {
    let found = blocks(README, heading).into_iter().nth(number);
    found.with_context(|| format!("README.md has no block {number} below `{heading}`"))
}

/// The indented blocks between a heading and the next, without their indentation.
fn blocks(text: &str, heading: &str) -> Vec<String> {
    let section = text
        .lines()
        .skip_while(|l| *l != heading)
        .skip(1)
        .take_while(|l| !l.starts_with('#'));
    let mut found = Vec::new();
    let mut open = false;
    for line in section {
        let Some(code) = line.strip_prefix("    ") else {
            open = false;
            continue;
        };
        if !open {
            found.push(String::new());
        }
        open = true;
        if let Some(block) = found.last_mut() {
            block.push_str(code);
            block.push('\n');
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_those_of_one_section() {
        let text = "### a\n\n    no\n\n### b\nwords\n\n    one  # why\n    two\n\nwords\n\n    three\n### c\n    no\n";
        assert_eq!(blocks(text, "### b"), ["one  # why\ntwo\n", "three\n"]);
        assert_eq!(blocks(text, "### d"), [""; 0]);
    }

    #[test]
    fn the_readme_has_those_that_scenarios_run() {
        for (heading, number, words) in [
            ("### podman", 0, "podman container checkpoint"),
            ("### podman", 1, "podman container restore"),
            ("### podman", 2, "podman pod stop"),
            ("### podman", 3, "podman container restore --pod"),
            ("### Docker", 0, "runc.conf"),
            ("### Docker", 1, "docker checkpoint create"),
            ("### Docker", 2, "docker start --checkpoint"),
        ] {
            assert!(block(heading, number).is_ok_and(|b| b.contains(words)));
        }
    }
}
