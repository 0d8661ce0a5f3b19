//! Text for a terminal: columns below each other, no wider than they may be.

use std::fmt::{self, Write};

use anstyle::Style;

/// What a column keeps before others are left out for it.
const ROOM: usize = 20;

/// Where a line goes on that was too long: below what follows a title.
const INDENT: usize = 11;

/// One cell.
pub(super) struct Cell {
    pub text: String,
    pub style: Style,
}

/// Rows whose columns stand below each other. If they are wider than `width`, the columns `spare` are left out, the first first,
/// until the others have room, and then the longest cells are shortened.
pub(super) fn lines(
    head: &[&str],
    rows: Vec<Vec<Cell>>,
    spare: &[usize],
    width: Option<usize>,
    out: &mut String,
) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    let dim = Style::new().dimmed();
    let head: Vec<Cell> = head.iter().map(|name| Cell { text: (*name).to_owned(), style: dim }).collect();
    let all: Vec<Vec<Cell>> = [head].into_iter().filter(|head| !head.is_empty()).chain(rows).collect();
    let columns = all.iter().map(Vec::len).max().unwrap_or_default();
    let widest = |at: usize| all.iter().filter_map(|row| row.get(at)).map(|cell| cell.text.chars().count()).max();
    let widths = (0..columns).map(|at| (at, widest(at).unwrap_or_default())).collect();
    let widths = fitted(widths, spare, width.unwrap_or(usize::MAX));
    for row in &all {
        out.push(' ');
        for (place, (at, width)) in widths.iter().enumerate() {
            let Some(Cell { text, style }) = row.get(*at) else { continue };
            let text = shortened(text, *width);
            let (missing, blank) =
                if place + 1 == widths.len() { (0, "") } else { (width - text.chars().count(), " ") };
            write!(out, " {style}{text}{style:#}{:missing$}{blank}", "")?;
        }
        out.push('\n');
    }
    Ok(())
}

/// Columns and their widths, such that the lines of them are no wider than `width`, if there is any such way.
fn fitted(mut columns: Vec<(usize, usize)>, spare: &[usize], width: usize) -> Vec<(usize, usize)> {
    // Two blanks before each.
    let total = |columns: &[(usize, usize)], most: usize| -> usize {
        columns.iter().map(|(_, width)| 2 + (*width).min(most)).sum()
    };
    for left_out in spare {
        if total(&columns, ROOM) <= width {
            break;
        }
        columns.retain(|(at, _)| at != left_out);
    }
    while total(&columns, usize::MAX) > width {
        match columns.iter_mut().max_by_key(|(_, width)| *width) {
            Some((_, longest)) if *longest > 1 => *longest -= 1,
            _ => break,
        }
    }
    columns
}

fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// `text` with its longer lines broken between words, so that none is wider than `width`. Colours take no width.
pub(super) fn wrapped(text: &str, width: usize) -> String {
    let indent = INDENT.min(width / 4);
    let mut all = String::with_capacity(text.len());
    for line in text.lines() {
        let mut used = 0;
        for word in line.split_inclusive(' ') {
            let length = seen(word.trim_end_matches(' '));
            if used > indent && used + length > width {
                all.truncate(all.trim_end_matches(' ').len());
                let _ = write!(all, "\n{:indent$}", "");
                used = indent;
            }
            all.push_str(word);
            used += seen(word);
        }
        all.push('\n');
    }
    all
}

/// How many characters of `text` a terminal shows.
fn seen(text: &str) -> usize {
    anstream::adapter::strip_str(text).map(|part| part.chars().count()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(width: usize) -> String {
        let cell = |text: &str| Cell { text: text.to_owned(), style: Style::new() };
        let row = |name: &str, why: &str| vec![cell("ok"), cell(name), cell("us"), cell(why)];
        let rows = vec![row("acme", "in sync"), row("a-long-name-of-an-account", "Merge answered 500, twice")];
        let mut out = String::new();
        lines(&["STATE", "ACCOUNT", "UPSTREAM", "BECAUSE"], rows, &[2], Some(width), &mut out)
            .expect("memory takes it");
        anstream::adapter::strip_str(&out).to_string()
    }

    #[test]
    fn columns_that_matter_less_go_first_and_then_cells_are_shortened() {
        assert_eq!(
            drawn(80),
            "  STATE  ACCOUNT                    UPSTREAM  BECAUSE
  ok     acme                       us        in sync
  ok     a-long-name-of-an-account  us        Merge answered 500, twice
"
        );
        assert_eq!(
            drawn(50),
            "  STATE  ACCOUNT               BECAUSE
  ok     acme                  in sync
  ok     a-long-name-of-an-a…  Merge answered 500…
"
        );
        for width in 9..80 {
            assert!(drawn(width).lines().all(|line| line.chars().count() <= width), "{width}: {}", drawn(width));
        }
    }

    #[test]
    fn long_lines_are_broken_between_words() {
        let text = "\x1b[1mnow\x1b[0m        12.0 requests/s, 97 % needed no call\nshort\n";
        assert_eq!(wrapped(text, 80), text);
        assert_eq!(
            wrapped(text, 34),
            "\x1b[1mnow\x1b[0m        12.0 requests/s, 97 %\n        needed no call\nshort\n"
        );
        assert_eq!(wrapped("one-word-that-is-too-long", 10), "one-word-that-is-too-long\n");
    }
}
