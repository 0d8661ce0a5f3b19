//! Unix sockets, which nobody can open before their permissions are right.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use super::bind::Presence;
use crate::domain::rules::SocketAccess;

/// How many connections may wait to be accepted; the system may allow fewer.
const BACKLOG: i32 = 1024;

/// Listens on a Unix socket for those who `access` lets in. What stands at `path` is replaced in one step if nobody listens there any
/// more, or if whoever does is being replaced. It is never removed at the end: the file may be another process's by then.
///
/// # Errors
/// If the path cannot be had, or its permissions cannot be set.
pub fn bind(path: &Path, access: SocketAccess, presence: Presence) -> io::Result<UnixListener> {
    if presence == Presence::Alone && UnixStream::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    if fs::symlink_metadata(path).is_ok_and(|there| !there.file_type().is_socket()) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket is there"));
    }
    let new = beside(path);
    let _ = fs::remove_file(&new);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(&new)?)?;
    // Until it listens it refuses everybody, whatever permissions the umask has left; it listens when they are right.
    let ready = restrict(&new, access).and_then(|()| socket.listen(BACKLOG)).and_then(|()| fs::rename(&new, path));
    ready.inspect_err(|_| drop(fs::remove_file(&new)))?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}

/// A path in the same folder, no longer than most.
fn beside(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{:x}", std::process::id()))
}

fn restrict(path: &Path, access: SocketAccess) -> io::Result<()> {
    if access.group.is_some() {
        chown(path, None, access.group)?;
    }
    fs::set_permissions(path, Permissions::from_mode(access.mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_socket_has_the_permissions_that_it_is_given_whatever_was_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("proxy.sock");
        for mode in [0o600, 0o666, 0o660] {
            let listener = bind(&path, SocketAccess { mode, group: None }, Presence::Alone).expect("the path is free");
            assert_eq!(fs::metadata(&path).expect("it is there").mode() & 0o7777, mode);
            let taken = bind(&path, SocketAccess { mode, group: None }, Presence::Alone).expect_err("somebody listens");
            assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
            drop(listener);
            assert!(path.exists(), "the file outlives its listener");
        }
    }

    #[tokio::test]
    async fn a_unix_socket_is_replaced_in_one_step_and_only_on_purpose() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let first = bind(&path, SocketAccess::OWNER, Presence::Alone).expect("a free path");
        assert_eq!(
            bind(&path, SocketAccess::OWNER, Presence::Alone).expect_err("in use").kind(),
            io::ErrorKind::AddrInUse
        );
        first.accept().await.expect("who looks whether somebody listens");
        let second = bind(&path, SocketAccess::OWNER, Presence::Beside).expect("shared");
        let _client = tokio::net::UnixStream::connect(&path).await.expect("somebody listens");
        second.accept().await.expect("the second does");
        assert!(timeout(Duration::from_millis(50), first.accept()).await.is_err(), "the first does not any more");
        drop((first, second));
        bind(&path, SocketAccess::OWNER, Presence::Alone).expect("what was left behind is in nobody's way");
        let file = folder.path().join("file");
        fs::write(&file, "of value").expect("written");
        assert!(bind(&file, SocketAccess::OWNER, Presence::Alone).is_err(), "what is no socket stays");
        fs::remove_file(file).expect("still there");
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing else is left");
    }
}
