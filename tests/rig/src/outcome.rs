// SPDX-License-Identifier: GPL-2.0-only
//! What a scenario came to: figures, and the reasons why it failed.

use serde::Serialize;
use serde_json::{Map, Value};

/// Figures and faults of one scenario.
#[derive(Debug, Default)]
pub struct Outcome {
    figures: Map<String, Value>,
    faults: Vec<String>,
}

impl Outcome {
    /// Notes a figure.
    pub fn figure(&mut self, name: &str, value: impl Serialize) {
        self.figures.insert(
            name.to_string(),
            serde_json::to_value(value).unwrap_or(Value::Null),
        );
    }

    /// Notes a figure that is measured several times: the largest stays.
    pub fn worst(&mut self, name: &str, value: u64) {
        let before = self.get(name).and_then(Value::as_u64).unwrap_or(0);
        self.figure(name, value.max(before));
    }

    /// Notes a figure that must be zero, however often it is measured.
    pub fn zero(&mut self, name: &str, value: u64) {
        self.worst(name, value);
        self.require(value == 0, || format!("{name} is {value}, not 0"));
    }

    /// Notes a fault unless `holds`.
    pub fn require(&mut self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(fault());
        }
    }

    /// Notes a fault.
    pub fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    /// Notes the figures of a part under one name, and its faults.
    pub fn part(&mut self, name: &str, part: Self) {
        self.figure(name, part.figures);
        let faults = part.faults.into_iter();
        self.faults.extend(faults.map(|f| format!("{name}: {f}")));
    }

    /// Did nothing go wrong?
    pub fn ok(&self) -> bool {
        self.faults.is_empty()
    }

    /// The faults.
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// A figure noted before.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.figures.get(name)
    }

    /// The line the scenario ends with.
    pub fn line(&self, scenario: &str) -> String {
        let mut line = Map::new();
        line.insert("scenario".into(), scenario.into());
        line.insert("ok".into(), self.ok().into());
        line.extend(self.figures.clone());
        if !self.faults.is_empty() {
            line.insert("faults".into(), self.faults.clone().into());
        }
        Value::Object(line).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_makes_it_fail() {
        let mut o = Outcome::default();
        o.zero("lost", 0);
        assert_eq!(o.line("x"), r#"{"lost":0,"ok":true,"scenario":"x"}"#);
        o.zero("abort_packets", 2);
        assert!(!o.ok());
        assert!(o.line("x").contains("abort_packets is 2, not 0"));
    }
}
