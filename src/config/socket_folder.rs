//! Where Unix sockets are to be put.

use std::fs;
use std::io::ErrorKind;

use super::address::ListenAddress;
use super::findings::Findings;
use super::item::Item;

/// A Unix socket needs a folder to be in, which no start makes: its permissions say who else may put something there.
pub(super) fn expect_folder(address: &Item<ListenAddress>, findings: &mut Findings<'_>) {
    let ListenAddress::Unix(path) = &**address else { return };
    let Some(folder) = path.parent() else { return };
    let shown = folder.display();
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => findings.fault(address.place(), format!("{shown} is no folder: put the socket into one")),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            findings.fault(
                address.place(),
                format!("there is no folder {shown}: create it, or put the socket into another"),
            );
        }
        Err(error) => findings.fault(address.place(), format!("the folder {shown} cannot be used: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{config, faults};

    #[test]
    fn a_unix_socket_needs_a_folder_that_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let (sound, file) = (folder.path().join("p.sock"), folder.path().join("file"));
        std::fs::write(&file, "").expect("written");
        for (path, told) in [
            ("/nope/p.sock".into(), "there is no folder /nope: create it, or put the socket into another".to_owned()),
            (file.join("p.sock"), format!("{} is no folder: put the socket into one", file.display())),
            (
                file.join("in/p.sock"),
                format!("the folder {}/in cannot be used: Not a directory (os error 20)", file.display()),
            ),
        ] {
            let address = format!("unix:{}", path.display());
            let listen = format!("[server]\nlisten = ['127.0.0.1:8080', '{address}']\n");
            assert_eq!(faults(&listen), format!("proxy.toml:2:29  server.listen[1]  '{address}': {told}"));
            let admin = format!("[admin]\nlisten = '{address}'\n");
            assert_eq!(faults(&admin), format!("proxy.toml:2:10  admin.listen  '{address}': {told}"));
        }
        let sound = sound.display();
        config(&format!("[server]\nlisten = 'unix:{sound}'\n[admin]\nlisten = 'unix:{sound}.admin'\n"));
    }
}
