use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// A folder of this test's own, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("rp-{name}-{}", std::process::id()));
        check_given(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[test]
fn who_listens_is_found_as_long_as_anybody_listens() {
    let folder = Folder::new("found");
    let find = |name| super::find(&folder.0, name, user(), soon()).unwrap();
    assert!(matches!(find(b"a"), Found::Nobody));
    for _ in 0..3 {
        let rendezvous = listen(&folder.0, b"a").unwrap();
        let Found::Line(line) = find(b"a") else {
            panic!("nobody is found");
        };
        assert!(matches!(find(b"b"), Found::Nobody));
        let again = listen(&folder.0, b"a").unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
        let heard = accept(rendezvous.socket(), user(), b"").unwrap().unwrap();
        pass::send(line.as_fd(), b"hello", &[], Some(soon())).unwrap();
        let frame = pass::receive(heard.as_fd(), Some(soon())).unwrap();
        assert_eq!(frame.bytes, b"hello");
        assert!(accept(rendezvous.socket(), user(), b"").unwrap().is_none());
        // Another process has both, and this one ends.
        let fds = rendezvous.fds();
        assert_eq!(fds.len(), 2);
        let fds = fds.iter().map(|fd| fd.try_clone_to_owned().unwrap());
        let passed_on = Rendezvous::of(fds.collect()).unwrap();
        drop(rendezvous);
        let Found::Line(_line) = find(b"a") else {
            panic!("the next one is not found");
        };
        // Its files stay, and no process is found there.
        super::super::end(passed_on, b"bye");
        assert!(matches!(find(b"a"), Found::Nobody));
    }
}

/// On the BSDs that is the same answer as where no process listens.
#[test]
fn who_has_a_full_queue_is_there() {
    let folder = Folder::new("full");
    let rendezvous = listen(&folder.0, b"a").unwrap();
    let mut lines = Vec::new();
    let until = Instant::now() + Duration::from_millis(50);
    let found = loop {
        match find(&folder.0, b"a", user(), until).unwrap() {
            Found::Line(line) => lines.push(line),
            other => break other,
        }
        assert!(lines.len() < 100);
    };
    assert!(matches!(found, Found::Busy), "{found:?}");
    // They are told before the place is free.
    super::super::end(rendezvous, b"bye");
    for line in &lines {
        let frame = pass::receive(line.as_fd(), Some(soon()));
        assert!(frame.is_ok() || lines.len() > 16, "{frame:?}");
    }
}

#[test]
fn a_folder_that_others_may_write_is_refused() {
    let folder = Folder::new("modes");
    let at = folder.0.display();
    for mode in [0o770, 0o702, 0o777] {
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(mode)).unwrap();
        let refused = check_given(&folder.0).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(
            refused.to_string(),
            format!("other users may write into the folder {at} (its mode is {mode:o})")
        );
    }
    for mode in [0o700, 0o755] {
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(mode)).unwrap();
        check_given(&folder.0).unwrap();
    }
    let long = Path::new("/").join("x".repeat(86));
    assert!(check_length(&long).is_err());
    assert!(check_length(Path::new(&long.to_str().unwrap()[..86])).is_ok());
    let file = folder.0.join("file");
    fs::write(&file, "").unwrap();
    let refused = check_given(&file).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("{} is no folder", file.display())
    );
    let about = fs::metadata(&folder.0).unwrap();
    let other = user() + 1;
    assert_eq!(
        check_folder(&folder.0, &about, other)
            .unwrap_err()
            .to_string(),
        format!(
            "the folder {at} is user {}'s, and this process is user {other}'s",
            user()
        )
    );
    // A lock file that leads elsewhere is not followed.
    let away = folder.0.join("away");
    symlink(&away, Files::of(&folder.0, b"a").lock).unwrap();
    assert!(listen(&folder.0, b"a").is_err());
    assert!(!away.exists());
}

#[test]
fn a_name_is_one_file_in_every_build() {
    assert_eq!(fnv(b""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
}

#[test]
fn the_default_is_a_folder_of_this_users() {
    let folder = default().unwrap();
    assert!(folder.is_absolute());
    let about = fs::symlink_metadata(&folder).unwrap();
    assert_eq!((about.uid(), about.mode() & 0o777), (user(), 0o700));
}
