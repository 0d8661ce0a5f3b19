//! A start that fails leaves everything as it was.

use std::fs::read_dir;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::process::{Folder, Running, run, told};

/// Listens on these sockets, and has its operators on `admin`.
fn config(sockets: &[&Path], admin: &str) -> Folder {
    let sockets: Vec<_> = sockets.iter().map(|socket| format!("'unix:{}'", socket.display())).collect();
    Folder::new(&format!(
        "[server]\nlisten = ['127.0.0.1:0', {}]\n[admin]\nlisten = '{admin}'\n\
         [upstreams.us]\nbase_url = 'https://merge.test'\napi_key = 'a-key'\n[telemetry]\nlog = 'json'\n",
        sockets.join(", ")
    ))
}

/// The exit code of a start, and what it has said.
fn start(config: &Folder, more: &[&str], env: &[(&str, &str)]) -> (i32, String) {
    let file = config.file();
    let (code, _, err) = told(&run(&[&["--config", file.to_str().expect("UTF-8")], more].concat(), env));
    (code, err)
}

fn answers(socket: &Path) -> bool {
    let mut stream = UnixStream::connect(socket).expect("somebody listens");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n").expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.starts_with("HTTP/1.1 404 ")
}

#[test]
fn a_start_that_fails_leaves_no_socket_behind_and_the_one_of_a_proxy_that_runs_in_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let [first, second, file] = ["first", "second", "file"].map(|name| folder.path().join(name));
    let foreign = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = foreign.local_addr().expect("it is bound").to_string();
    std::fs::write(&file, "").expect("written");
    let unusable = [("HTTPS_PROXY", "https://proxy.test:3128")];
    let starts = [
        (config(&[&first, &second], &taken), &[][..], 1, "cannot listen on"),
        (config(&[&first, &second, &file], "127.0.0.1:0"), &[], 1, "cannot listen on"),
        (config(&[&first, &second], "127.0.0.1:0"), &unusable, 2, "upstreams.us.proxy: "),
    ];
    for (config, env, code, why) in &starts {
        let failed = start(config, &[], env);
        assert!(failed.0 == *code && failed.1.contains(why), "{failed:?}");
        assert_eq!(read_dir(folder.path()).expect("a folder").count(), 1, "{}", failed.1);
    }
    let (running, ..) = Running::serve(&config(&[&first, &second], "127.0.0.1:0"), &[]);
    for (config, env, code, why) in &starts {
        let failed = start(config, &["--replace"], env);
        assert!(failed.0 == *code && failed.1.contains(why), "{failed:?}");
        assert!(answers(&first) && answers(&second), "{}", failed.1);
    }
    running.terminate();
    assert_eq!(running.end().0.code(), Some(0));
    assert_eq!(read_dir(folder.path()).expect("a folder").count(), 1, "only the file, which is nobody's");
}
