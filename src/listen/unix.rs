//! Unix sockets, which nobody can open before their permissions are right.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use super::bind::Presence;
use crate::domain::rules::SocketAccess;

/// How many connections may wait to be accepted; the system may allow fewer.
const BACKLOG: i32 = 1024;

/// Listens on a Unix socket for those who `access` lets in, which is beside `path` until it [takes its place](SocketFile::take_place).
///
/// # Errors
/// If the path cannot be had, or its permissions cannot be set.
pub fn bind(path: &Path, access: SocketAccess, presence: Presence) -> io::Result<(UnixListener, SocketFile)> {
    if presence == Presence::Alone && UnixStream::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    if fs::symlink_metadata(path).is_ok_and(|there| !there.file_type().is_socket()) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket is there"));
    }
    let stands = beside(path);
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(&stands)?)?;
    let identity = identity(&stands).inspect_err(|_| drop(fs::remove_file(&stands)))?;
    let file = SocketFile { path: path.to_owned(), stands, identity };
    // Until it listens it refuses everybody, whatever permissions the umask has left; it listens when they are right.
    restrict(&file.stands, access)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok((UnixListener::from_std(socket.into())?, file))
}

/// The file of a socket. It is removed when this is dropped, unless another stands in its place: that is the socket of whoever has taken
/// over.
#[derive(Debug)]
pub struct SocketFile {
    /// Where it is to be found.
    path: PathBuf,
    /// Where it is.
    stands: PathBuf,
    /// Which one it was when it was bound.
    identity: (u64, u64),
}

impl SocketFile {
    /// Lets everybody find it. What stands in its place is replaced in one step; so this comes when nothing else can fail any more.
    ///
    /// # Errors
    /// If the path cannot be had.
    pub fn take_place(&mut self) -> io::Result<()> {
        fs::rename(&self.stands, &self.path)?;
        self.stands.clone_from(&self.path);
        Ok(())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.stands).is_ok_and(|found| found == self.identity)
            && let Err(error) = fs::remove_file(&self.stands)
        {
            tracing::debug!(%error, path = %self.stands.display(), "a Unix socket stays behind");
        }
    }
}

/// Device and number of what stands at `path` itself.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|data| (data.dev(), data.ino()))
}

/// A path in the same folder where nothing is, no longer than most.
fn beside(path: &Path) -> PathBuf {
    let any = || path.with_file_name(format!(".{:x}", fastrand::u16(..)));
    let mut paths = std::iter::repeat_with(any);
    paths.find(|path| fs::symlink_metadata(path).is_err()).expect("there is no end to them")
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
    use std::time::Duration;
    use tokio::time::timeout;

    /// A socket in its place.
    fn listen(path: &Path, access: SocketAccess, presence: Presence) -> (UnixListener, SocketFile) {
        let (listener, mut file) = bind(path, access, presence).expect("the path can be had");
        file.take_place().expect("the path can be had");
        (listener, file)
    }

    #[tokio::test]
    async fn a_socket_has_the_permissions_that_it_is_given_whatever_was_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("proxy.sock");
        // As a crash leaves it.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a free path"));
        for mode in [0o600, 0o666, 0o660] {
            let (listener, _file) = listen(&path, SocketAccess { mode, group: None }, Presence::Alone);
            assert_eq!(fs::metadata(&path).expect("it is there").mode() & 0o7777, mode);
            let taken = bind(&path, SocketAccess { mode, group: None }, Presence::Alone).expect_err("somebody listens");
            assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
            drop(listener);
            assert!(path.exists(), "the file outlives its listener");
        }
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_unix_socket_is_replaced_in_one_step_and_only_on_purpose() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        drop(bind(&path, SocketAccess::OWNER, Presence::Alone).expect("a free path"));
        let (first, of_first) = listen(&path, SocketAccess::OWNER, Presence::Alone);
        assert_eq!(
            bind(&path, SocketAccess::OWNER, Presence::Alone).expect_err("in use").kind(),
            io::ErrorKind::AddrInUse
        );
        first.accept().await.expect("who looks whether somebody listens");
        drop(bind(&path, SocketAccess::OWNER, Presence::Beside).expect("shared"));
        let _client = tokio::net::UnixStream::connect(&path).await.expect("somebody listens");
        first.accept().await.expect("nobody has taken over");
        let (second, of_second) = listen(&path, SocketAccess::OWNER, Presence::Beside);
        drop(of_first);
        let _client = tokio::net::UnixStream::connect(&path).await.expect("somebody listens");
        second.accept().await.expect("the second does");
        assert!(timeout(Duration::from_millis(50), first.accept()).await.is_err(), "the first does not any more");
        drop((first, second));
        let (third, of_third) = listen(&path, SocketAccess::OWNER, Presence::Alone);
        drop(of_second);
        assert!(path.exists(), "it is the third's by now");
        drop(third);
        drop(of_third);
        assert!(!path.exists(), "nothing is left behind");
        let file = folder.path().join("file");
        fs::write(&file, "of value").expect("written");
        assert!(bind(&file, SocketAccess::OWNER, Presence::Alone).is_err(), "what is no socket stays");
        fs::remove_file(file).expect("still there");
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing is left");
    }
}
