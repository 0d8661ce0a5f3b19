//! Who may import whom: a star around `domain`, without cycles. Siblings never see each other.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const ALL: &[&str] = &[
    "access_log",
    "admin",
    "cache",
    "cli",
    "config",
    "demo",
    "domain",
    "door",
    "listen",
    "metrics",
    "relay",
    "reply",
    "stack",
    "telemetry",
    "trace",
    "upstream",
    "webhook",
];

/// What each part may import beside itself.
const ARROWS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("config", &["domain"]),
    ("listen", &["domain"]),
    ("door", &["domain"]),
    ("cache", &["domain"]),
    ("relay", &["domain"]),
    ("upstream", &["domain"]),
    ("reply", &["domain"]),
    ("access_log", &["domain"]),
    ("telemetry", &["access_log", "domain", "trace"]),
    ("metrics", &["domain"]),
    ("trace", &["domain"]),
    (
        "stack",
        &[
            "cache",
            "domain",
            "door",
            "listen",
            "metrics",
            "relay",
            "reply",
            "telemetry",
            "trace",
            "upstream",
            "webhook",
        ],
    ),
    ("webhook", &["cache", "domain", "door"]),
    ("admin", &["cache", "config", "domain", "door", "listen", "metrics", "reply", "telemetry", "upstream"]),
    ("demo", &["cache", "config", "domain", "door", "listen", "reply", "telemetry", "upstream"]),
    ("app", ALL),
    (
        "cli",
        &[
            "admin",
            "app",
            "cache",
            "config",
            "demo",
            "domain",
            "door",
            "listen",
            "metrics",
            "reply",
            "telemetry",
            "upstream",
        ],
    ),
];

/// The demo starts a whole proxy, as the command line does; the simulated Merge beside it knows nothing of one.
const STARTS_AN_APP: &str = "demo/run.rs";

#[test]
fn no_part_imports_what_it_must_not_see() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let mut met = BTreeSet::new();
    for file in files(&root) {
        let name = file.strip_prefix(&root).expect("it is below").to_string_lossy().into_owned();
        let part = name.split('/').next().expect("a first segment").trim_end_matches(".rs").to_owned();
        if matches!(part.as_str(), "lib" | "main") {
            continue;
        }
        let (_, allowed) = ARROWS.iter().find(|(from, _)| *from == part).unwrap_or_else(|| panic!("{name} is new"));
        for target in imports(&fs::read_to_string(&file).expect("a readable file")) {
            let fits =
                target == part || allowed.contains(&target.as_str()) || (name == STARTS_AN_APP && target == "app");
            if !fits {
                wrong.push(format!("{name} -> {target}"));
            }
        }
        met.insert(part);
    }
    assert!(wrong.is_empty(), "forbidden: {wrong:#?}");
    assert_eq!(met.len(), ARROWS.len(), "the picture shows parts that are not there");
}

#[test]
fn all_ways_to_write_an_import_are_seen() {
    let text = "
        //! [`crate::app`] in a comment
        use crate::domain::page;
        use crate::{
            config::{Config, fault},
            door,
        };
        fn f(x: crate::upstream::Y) {}
        use super::super::reply;
    ";
    let expected = ["config", "domain", "door", "reply", "upstream"].map(str::to_owned);
    assert_eq!(imports(text), expected.into());
}

/// All files below `folder`.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The parts that a file names, comments left out.
fn imports(text: &str) -> BTreeSet<String> {
    let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code: String = code.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut found = BTreeSet::new();
    for root in ["crate::", "super::super::"] {
        for (at, _) in code.match_indices(root) {
            let rest = &code[at + root.len()..];
            let named = rest.strip_prefix('{').map_or_else(|| word(rest).into_iter().collect(), list_of);
            // From a module of tests, two steps up lead to the file's own part and not to the crate.
            let is_part = |name: &String| root == "crate::" || ARROWS.iter().any(|(part, _)| name == part);
            found.extend(named.into_iter().filter(is_part));
        }
    }
    found
}

/// The first words of `a::{b, c}, d}`: those at the list's own depth.
fn list_of(list: &str) -> Vec<String> {
    let mut depth = 0_i32;
    let mut starts = vec![0];
    for (at, letter) in list.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => starts.push(at + 1),
            _ => {}
        }
    }
    starts.into_iter().filter_map(|start| word(&list[start..])).collect()
}

fn word(text: &str) -> Option<String> {
    let text = text.trim_start();
    let end = text.find(|letter: char| !letter.is_ascii_lowercase() && letter != '_').unwrap_or(text.len());
    // `crate::CONST` or a macro's `$crate::` names no part.
    (end > 0).then(|| text[..end].to_owned())
}
