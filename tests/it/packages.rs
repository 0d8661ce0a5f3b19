//! Packages that tests need from public registries: installed by the first test that asks, into the build folder, as their lock
//! files say, and found there by every later one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

const SKIP: &str = "MERGE_SYNC_PROXY_SKIP_SDKS";

/// Whether whoever runs the tests has asked to leave out those that need Python and Node.
pub(crate) fn are_left_out() -> bool {
    let left_out = std::env::var_os(SKIP).is_some_and(|value| value == "1");
    if left_out {
        println!("left out, as {SKIP}=1 asks");
    }
    left_out
}

/// A Python that has the packages of `requirements.txt` in a folder below `tests`.
pub(crate) fn python(folder: &str) -> PathBuf {
    let version = version("python3", "Python 3.10 or later with its venv module (Debian: python3-venv)");
    let lock = source(folder).join("requirements.txt");
    let place = once(folder, &version, &lock, |place| {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(place));
        let pip = ["-m", "pip", "install", "--quiet", "--require-hashes", "--only-binary", ":all:", "--requirement"];
        run(Command::new(place.join("bin/python")).args(pip).arg(&lock));
    });
    place.join("bin/python")
}

/// A folder whose `node_modules` has the packages of `package-lock.json` in a folder below `tests`.
pub(crate) fn node(folder: &str) -> PathBuf {
    let version = version("node", "Node 20 or later") + &version("npm", "npm");
    let lock = source(folder).join("package-lock.json");
    once(folder, &version, &lock, |place| {
        for file in ["package.json", "package-lock.json"] {
            fs::copy(source(folder).join(file), place.join(file)).expect("copied");
        }
        let arguments = ["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"];
        run(Command::new("npm").args(arguments).current_dir(place));
    })
}

/// A folder below `tests`.
pub(crate) fn source(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder)
}

fn version(tool: &str, what: &str) -> String {
    let told = Command::new(tool).arg("--version").output();
    let told = told.ok().filter(|told| told.status.success()).unwrap_or_else(|| {
        panic!("this test needs {what}: install it so that `{tool} --version` works, or set {SKIP}=1 to leave it out")
    });
    String::from_utf8_lossy(&told.stdout).into_owned()
}

/// The folder that `install` has filled as `lock` says, with a tool of this version. Tests run at the same time, in this process
/// and in others: one of them installs, the others wait for it.
fn once(name: &str, version: &str, lock: &Path, install: impl FnOnce(&Path)) -> PathBuf {
    let locked = fs::read(lock).expect("there is a lock file");
    let key = hex::encode(Sha256::new().chain_update(version).chain_update(locked).finalize());
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{}", name.replace('/', "-"), &key[..16]));
    let gate = File::create(place.with_extension("gate")).expect("the build folder can be written to");
    gate.lock().expect("the file system has locks");
    let whole = place.join("installed");
    if !whole.exists() {
        // What is there comes from a run that was stopped half way.
        let _ = fs::remove_dir_all(&place);
        fs::create_dir_all(&place).expect("the build folder can be written to");
        install(&place);
        File::create(whole).expect("the build folder can be written to");
    }
    place
}

fn run(command: &mut Command) {
    let output = command.output().expect("it starts");
    let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (said(&output.stdout), said(&output.stderr));
    assert!(
        output.status.success(),
        "{command:?} ends with {}; is its registry within reach?\n{out}{err}",
        output.status
    );
}
