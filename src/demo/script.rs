//! Which faults the next answer has: a queue for the next few, and standing ones for all.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::fault::{Fault, Faults};

/// What is to go wrong.
#[derive(Debug, Default)]
pub(crate) struct Script {
    lines: Mutex<VecDeque<Line>>,
}

#[derive(Debug)]
struct Line {
    faults: Vec<Fault>,
    account: Option<String>,
    /// For so many answers; `None`: until cleared.
    left: Option<usize>,
}

impl Script {
    /// What the next answer to this account suffers: the oldest counted line for it, else the newest standing one.
    pub(crate) fn next(&self, account: Option<&str>) -> Vec<Fault> {
        let mut lines = self.lines.lock();
        let is_for = |line: &Line| line.account.is_none() || line.account.as_deref() == account;
        if let Some(place) = lines.iter().position(|line| line.left.is_some() && is_for(line)) {
            let line = &mut lines[place];
            line.left = line.left.map(|left| left - 1);
            if line.left != Some(0) {
                return line.faults.clone();
            }
            return lines.remove(place).map(|line| line.faults).unwrap_or_default();
        }
        lines.iter().rev().find(|line| is_for(line)).map(|line| line.faults.clone()).unwrap_or_default()
    }

    /// Takes everything back.
    pub(crate) fn clear(&self) {
        self.lines.lock().clear();
    }

    fn push(&self, line: Line) {
        if line.left != Some(0) {
            self.lines.lock().push_back(line);
        }
    }
}

/// A fault that is being scripted; it takes effect with [`Scripted::times`], [`Scripted::once`] or [`Scripted::always`].
#[derive(Debug)]
#[must_use = "say how often: `once`, `times` or `always`"]
pub struct Scripted<'a> {
    script: &'a Script,
    faults: Faults,
    account: Option<String>,
}

impl<'a> Scripted<'a> {
    pub(crate) fn new(script: &'a Script, faults: Faults) -> Self {
        Self { script, faults, account: None }
    }

    /// Only for this account.
    pub fn only(mut self, account: &str) -> Self {
        self.account = Some(account.to_owned());
        self
    }

    /// For the next answer.
    pub fn once(self) {
        self.times(1);
    }

    /// For the next so many answers, after those scripted before.
    pub fn times(self, count: usize) {
        self.script.push(Line { faults: self.faults.0, account: self.account, left: Some(count) });
    }

    /// For every answer that no counted line is for, until cleared.
    pub fn always(self) {
        self.script.push(Line { faults: self.faults.0, account: self.account, left: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(script: &Script, account: &str) -> Option<u16> {
        match *script.next(Some(account)) {
            [Fault::Status(status)] => Some(status),
            _ => None,
        }
    }

    #[test]
    fn counted_lines_come_first_and_in_order_then_the_standing_one() {
        let script = Script::default();
        let status = |status| Scripted::new(&script, Fault::Status(status).into());
        status(500).always();
        status(501).times(2);
        status(502).only("acme").once();
        status(503).times(0);
        let answers = [(); 5].map(|()| next(&script, "acme"));
        assert_eq!(answers, [501, 501, 502, 500, 500].map(Some));
        script.clear();
        assert_eq!(next(&script, "acme"), None);
    }

    #[test]
    fn a_line_for_one_account_leaves_the_others_alone() {
        let script = Script::default();
        Scripted::new(&script, Fault::Status(500).into()).only("acme").always();
        assert_eq!((next(&script, "acme"), next(&script, "globex")), (Some(500), None));
        assert!(script.next(None).is_empty());
    }
}
