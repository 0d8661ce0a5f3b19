//! The end of the log's way: lines are written, or lost and counted. No error leaves here, as there is nobody who could do more.

use std::io::{ErrorKind, Write};
use std::thread;
use std::time::Duration;

use memchr::memchr_iter;

/// How many bytes of lines are written at a time, if there are so many: half of what a pipe holds, so that its reader need not be waited
/// for with each.
const AT_ONCE: usize = 32 << 10;

/// How long a descriptor that does not wait by itself, and takes nothing now, is left alone.
const NOT_NOW: Duration = Duration::from_millis(20);

/// A text without what no line may say, if there is any of that in it.
pub type Clean = fn(&[u8]) -> Option<Vec<u8>>;

/// Where lines are written.
pub(super) struct Out {
    to: Box<dyn Write + Send>,
    clean: Clean,
    /// Lines on their way out.
    text: Vec<u8>,
    /// Whether the last of what was written is a part of a line: the next must not be taken for its end.
    is_torn: bool,
    /// Lines that could not be written since the last time that somebody asked.
    lost: u64,
}

impl Out {
    pub(super) fn new(to: impl Write + Send + 'static, clean: Clean) -> Self {
        Self { to: Box::new(to), clean, text: Vec::new(), is_torn: false, lost: 0 }
    }

    /// Writes the line that `append` makes, perhaps together with the next.
    pub(super) fn line(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        append(&mut self.text);
        if self.text.len() >= AT_ONCE {
            self.put();
        }
    }

    /// Writes what has come together, and says how many lines have been lost since the last time.
    pub(super) fn end(&mut self) -> u64 {
        self.put();
        std::mem::take(&mut self.lost)
    }

    fn put(&mut self) {
        if self.is_torn && !self.text.is_empty() {
            self.is_torn = write(&mut *self.to, b"\n") == 0;
        }
        // Here, and not on the way to where it is written: that may take a part of what it is given, and has to know of which text.
        let cleaned = (self.clean)(&self.text);
        let text = cleaned.as_deref().unwrap_or(&self.text);
        let written = if self.is_torn { 0 } else { write(&mut *self.to, text) };
        if written > 0 {
            self.is_torn = text[written - 1] != b'\n';
        }
        self.lost += memchr_iter(b'\n', &text[written..]).count() as u64;
        self.text.clear();
    }
}

/// Writes as much of `text` as can be written, and says how much that is.
fn write(to: &mut dyn Write, text: &[u8]) -> usize {
    let mut written = 0;
    while written < text.len() {
        match to.write(&text[written..]) {
            Ok(0) => break,
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(NOT_NOW),
            Err(_) => break,
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::io;
    use std::sync::Arc;

    /// A disk with so many bytes of room.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (held, room) = &mut *self.0.lock();
            let fits = bytes.len().min(*room);
            if fits == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            *room -= fits;
            held.extend_from_slice(&bytes[..fits]);
            Ok(fits)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_does_not_fit_on_a_disk_is_counted_and_tears_no_line_that_comes_later() {
        let disk = Disk::default();
        let mut out = Out::new(disk.clone(), |_| None);
        let mut write = |room: usize, lines: &[&str]| {
            disk.0.lock().1 = room;
            for line in lines {
                out.line(|text| text.extend_from_slice(line.as_bytes()));
            }
            out.end()
        };
        assert_eq!(write(6, &["one\n", "two\n", "three\n"]), 2);
        assert_eq!(write(0, &["four\n"]), 1);
        assert_eq!(write(100, &["five\n", "six\n"]), 0);
        assert_eq!(write(0, &["seven\n"]), 1);
        assert_eq!(write(100, &["eight\n"]), 0);
        assert_eq!(disk.0.lock().0, b"one\ntw\nfive\nsix\neight\n");
    }

    /// A pipe that does not wait: it takes a few bytes, and then none for a moment.
    #[derive(Clone, Default)]
    struct Pipe(Arc<Mutex<(Vec<u8>, bool)>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (held, is_full) = &mut *self.0.lock();
            *is_full = !*is_full;
            if !*is_full {
                return Err(ErrorKind::WouldBlock.into());
            }
            let taken = bytes.len().min(7);
            held.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_cut_out_makes_no_line_come_twice() {
        let clean = |text: &[u8]| Some(str::from_utf8(text).expect("text").replace("canary", "[redacted]").into());
        let pipe = Pipe::default();
        let mut out = Out::new(pipe.clone(), clean);
        for line in ["one line\n", "a canary and more\n", "another line\n"] {
            out.line(|text| text.extend_from_slice(line.as_bytes()));
        }
        assert_eq!(out.end(), 0);
        let held = pipe.0.lock().0.clone();
        assert_eq!(String::from_utf8_lossy(&held), "one line\na [redacted] and more\nanother line\n");
    }
}
