// SPDX-License-Identifier: GPL-2.0-only
//! An HSS: Debian's MariaDB with subscribers, and Diameter-like associations beside it, in one container.

use anyhow::{ensure, Context, Result};

use super::mme::Service;
use crate::{
    container::{Container, Network},
    guest::Guest,
    lab::Lab,
    outcome::Outcome,
};

/// Its address.
pub const ADDRESS: &str = "10.45.0.101";
/// Its Diameter.
pub const S6A: Service = Service {
    addresses: &[ADDRESS],
    port: 3868,
    rate: 5,
    from: 41000,
    status: "/var/tmp/hss.json",
};
/// Its image.
pub const IMAGE: &str = "telecr/hss";
/// Programs in it.
pub const PROGRAMS: &[&str] = &["/usr/bin/mme-server", "/usr/sbin/mariadbd", "/bin/sh"];
/// What makes its database, in the folder of the image: small files, since podman carries those that have changed along.
pub const DATABASE: &str = "mkdir -p var/lib/mysql; printf '%s\\n' '[mariadbd]' user=root skip-name-resolve \
     innodb-use-native-aio=0 innodb-buffer-pool-size=16M innodb-log-file-size=4M innodb-autoextend-increment=1 \
     innodb-data-file-path=ibdata1:5M:autoextend innodb-temp-data-file-path=ibtmp1:2M:autoextend \
     innodb-undo-tablespaces=0 performance-schema=0 > etc/my.cnf; \
     for d in mysql/english mysql/charsets mariadb/english mariadb/charsets; do if [ -d /usr/share/$d ]; then \
     mkdir -p usr/share/${d%/*}; cp -rL /usr/share/$d usr/share/$d; fi; done; \
     printf '%s;\\n' 'CREATE DATABASE IF NOT EXISTS hss' 'CREATE TABLE IF NOT EXISTS hss.t (n INT PRIMARY KEY) ENGINE=InnoDB' \
     \"CREATE USER IF NOT EXISTS 'hss'@'%' IDENTIFIED BY 'hss'\" \"GRANT ALL ON hss.* TO 'hss'@'%'\" > etc/init.sql; \
     mariadb-install-db --defaults-file=$PWD/etc/my.cnf --user=root --datadir=$PWD/var/lib/mysql --skip-test-db \
     --auth-root-authentication-method=normal > /var/tmp/install-db.log 2>&1";

const OUTPUT: &str = "/var/tmp/hss.out";
const STOP: &str = "/var/tmp/hss.stop";

/// The container.
pub fn container(network: Network, runtime: &'static str) -> Container<'static> {
    Container {
        name: "hss",
        network,
        addresses: [ADDRESS, ""],
        runtime,
        options: &[],
        moving: &["--tcp-established", "--file-locks"],
        command: &[
            IMAGE,
            "/bin/sh",
            "-c",
            "/bin/mme-server --rate 5 --listen 10.45.0.101:3868 --status /tmp/status.json & \
             exec /bin/mariadbd --defaults-file=/etc/my.cnf --datadir=/var/lib/mysql --socket=/run/mysqld.sock \
             --pid-file=/run/mysqld.pid --bind-address=10.45.0.101 --init-file=/etc/init.sql",
        ],
    }
}

/// Statements of a client that keeps one transaction open, ten a second, until it is told to commit.
#[derive(Debug)]
pub struct Client {
    pid: i32,
}

impl Client {
    /// Waits for the database, begins, and waits for the first rows.
    pub fn start(lab: &mut Lab) -> Result<Self> {
        let mut last = Ok(0);
        lab.peer
            .until("the database to answer", 60.0, |g| {
                last = count(g);
                Ok(matches!(last, Ok(0)))
            })
            .with_context(|| format!("the database says {last:?}"))?;
        let script = format!(
            "rm -f {STOP}; {{ echo 'SELECT CONNECTION_ID();'; echo 'START TRANSACTION;'; n=0; \
             while [ ! -e {STOP} ]; do n=$((n+1)); echo \"INSERT INTO t VALUES ($n); SELECT $n;\"; sleep 0.1; done; \
             echo 'COMMIT; SELECT CONNECTION_ID(), COUNT(*), MAX(n) FROM t;'; }} | {} hss",
            mariadb()
        );
        let pid = lab.peer.spawn(&["sh", "-c", &script], OUTPUT)?;
        let client = Self { pid };
        client.goes_on(&mut lab.peer)?;
        Ok(client)
    }

    /// Waits until ten more statements are answered.
    pub fn goes_on(&self, peer: &mut Guest) -> Result<()> {
        let from = lines(peer)?.len();
        peer.until("the transaction to go on", 60.0, |g| {
            if let Some(code) = g.ended(self.pid)? {
                anyhow::bail!("mariadb ended with {code}: {:?}", lines(g)?.last());
            }
            Ok(lines(g)?.len() >= from + 10)
        })
    }

    /// Commits, and judges what became of connection and transaction.
    pub fn finish(self, lab: &mut Lab, outcome: &mut Outcome) -> Result<()> {
        let peer = &mut lab.peer;
        let visible = count(peer)?;
        outcome.require(visible == 0, || {
            format!("others see {visible} rows before the commit")
        });
        peer.sh(&format!("touch {STOP}"))?;
        let code = peer.wait(self.pid, 30.0)?;
        let lines = lines(peer)?;
        ensure!(code == 0, "mariadb ended with {code}: {:?}", lines.last());
        let (first, last) = (
            lines.first().context("mariadb has said nothing")?,
            lines.last().context("mariadb has said nothing")?,
        );
        let answered = lines.len() - 2;
        outcome.figure("statements", answered);
        outcome.require(*last == format!("{first}\t{answered}\t{answered}"), || {
            format!("connection {first} answered {answered} times, and says of itself and its rows: {last}")
        });
        let committed = count(peer)?;
        outcome.require(committed == answered, || {
            format!("{committed} rows of {answered} are there after the commit")
        });
        Ok(())
    }
}

fn mariadb() -> String {
    format!("mariadb --no-defaults -N --unbuffered --skip-reconnect --skip-ssl -h {ADDRESS} -u hss -phss")
}

fn lines(peer: &mut Guest) -> Result<Vec<String>> {
    let bytes = peer.get(OUTPUT)?;
    Ok(String::from_utf8_lossy(&bytes)
        .lines()
        .map(String::from)
        .collect())
}

/// The rows that another connection sees.
fn count(peer: &mut Guest) -> Result<usize> {
    let out = peer.sh(&format!("{} hss -e 'SELECT COUNT(*) FROM t'", mariadb()))?;
    out.trim().parse().context("no number of rows")
}
