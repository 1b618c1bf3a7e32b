//! What is seen of an image: its layers merged, nothing of the host, and nothing left behind.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use bundles::Error;
use bundles::rootfs::{FILE_BYTES_MAX, Kind, RootView};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, inotify};

/// Folders to be layers, the top one first.
fn layers(folder: &Path, count: usize) -> Vec<PathBuf> {
    let layers: Vec<_> =
        (0..count).map(|number| folder.join(format!("layer, with: odd\\name {number}"))).collect();
    for layer in &layers {
        fs::create_dir(layer).unwrap();
    }
    layers
}

fn put(layer: &Path, path: &str, content: &str) {
    let path = layer.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn read(view: &RootView, path: &str) -> Option<String> {
    view.read(path).unwrap().map(|content| String::from_utf8(content).unwrap())
}

#[test]
fn layers_are_merged() {
    let folder = tempfile::tempdir().unwrap();
    let layers = layers(folder.path(), 3);
    let [top, middle, bottom] = &layers[..] else { unreachable!() };
    put(bottom, "etc/one", "bottom");
    put(bottom, "etc/two", "bottom");
    put(bottom, "gone/file", "bottom");
    put(bottom, "opaque/old", "bottom");
    put(middle, "etc/two", "middle");
    put(middle, "etc/three", "middle");
    // A whiteout and an opaque folder, in overlayfs's form.
    rustix::fs::mknodat(CWD, top.join("gone"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    put(top, "opaque/new", "top");
    rustix::fs::setxattr(top.join("opaque"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();

    let view = RootView::of_layers("test", &layers).unwrap();
    assert_eq!(read(&view, "/etc/one").as_deref(), Some("bottom"));
    assert_eq!(read(&view, "etc/two").as_deref(), Some("middle"));
    assert_eq!(read(&view, "/etc/three").as_deref(), Some("middle"));
    assert_eq!(read(&view, "/gone/file"), None);
    assert!(!view.exists("/gone").unwrap());
    assert_eq!(read(&view, "/opaque/old"), None);
    assert_eq!(read(&view, "/opaque/new").as_deref(), Some("top"));
    // A file in the middle of a path: there is nothing there.
    assert_eq!(read(&view, "/etc/one/more"), None);
}

#[test]
fn one_layer_and_none_are_images_too() {
    let folder = tempfile::tempdir().unwrap();
    let layers = layers(folder.path(), 1);
    put(&layers[0], "file", "x");
    // Alone it would be seen as a device; merged it is what it stands for.
    rustix::fs::mknodat(CWD, layers[0].join("gone"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    chown(&layers[0], Some(3), Some(4)).unwrap();
    fs::set_permissions(&layers[0], fs::Permissions::from_mode(0o711)).unwrap();
    let view = RootView::of_layers("test", &layers).unwrap();
    assert_eq!(read(&view, "/file").as_deref(), Some("x"));
    assert!(!view.exists("/gone").unwrap());
    let root = view.metadata("/").unwrap().unwrap();
    assert_eq!((root.kind, root.mode, root.uid, root.gid), (Kind::Folder, 0o711, 3, 4));

    let nothing = RootView::of_layers("test", &[]).unwrap();
    assert_eq!(nothing.metadata("/").unwrap().unwrap().mode, 0o755);
    assert!(!nothing.exists("/file").unwrap());
}

#[test]
fn hundreds_of_layers_fit() {
    let folder = tempfile::tempdir().unwrap();
    let layers = layers(folder.path(), 300);
    for (number, layer) in layers.iter().enumerate() {
        put(layer, &format!("file{number}"), "x");
        put(layer, "same", &number.to_string());
    }
    let view = RootView::of_layers("test", &layers).unwrap();
    assert!(view.exists("file0").unwrap() && view.exists("file299").unwrap());
    assert_eq!(read(&view, "same").as_deref(), Some("0"));
}

#[test]
fn no_symlink_leads_to_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let layers = layers(folder.path(), 1);
    let secret = folder.path().join("secret");
    fs::write(&secret, "of the host").unwrap();
    let up = format!("{}{}", "../".repeat(40), secret.display());
    symlink(&secret, layers[0].join("absolute")).unwrap();
    symlink(&up, layers[0].join("relative")).unwrap();
    symlink("/proc/self/root", layers[0].join("magic")).unwrap();
    symlink("loop", layers[0].join("loop")).unwrap();
    put(&layers[0], "etc/passwd", "of the image");
    symlink("../../../../etc/passwd", layers[0].join("etc/link")).unwrap();
    symlink("/../../etc/../etc/passwd", layers[0].join("etc/above")).unwrap();
    let view = RootView::of_layers("test", &layers).unwrap();
    assert_eq!(read(&view, "/etc/above").as_deref(), Some("of the image"));
    assert_eq!(read(&view, "/absolute"), None);
    assert_eq!(read(&view, "/relative"), None);
    assert_eq!(read(&view, &format!("/magic{}", secret.display())), None);
    assert_eq!(read(&view, &up), None);
    assert_eq!(read(&view, "/etc/link").as_deref(), Some("of the image"));
    assert!(matches!(view.read("/loop"), Err(Error::Io { .. })));
}

#[test]
fn only_regular_files_of_honest_length_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let layers = layers(folder.path(), 1);
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(CWD, layers[0].join("pipe"), FileType::Fifo, mode, 0).unwrap();
    let zero = rustix::fs::makedev(1, 5);
    rustix::fs::mknodat(CWD, layers[0].join("zero"), FileType::CharacterDevice, mode, zero).unwrap();
    fs::create_dir(layers[0].join("folder")).unwrap();
    let long = fs::File::create(layers[0].join("long")).unwrap();
    long.set_len(FILE_BYTES_MAX + 1).unwrap();
    let longest = fs::File::create(layers[0].join("longest")).unwrap();
    longest.set_len(FILE_BYTES_MAX).unwrap();
    let view = RootView::of_layers("test", &layers).unwrap();
    for path in ["pipe", "zero", "folder"] {
        assert!(matches!(view.read(path), Err(Error::NotAFile { .. })), "{path}");
    }
    assert_eq!(view.metadata("pipe").unwrap().unwrap().kind, Kind::Special);
    assert!(matches!(view.read("long"), Err(Error::FileTooLong { .. })));
    assert_eq!(view.read("longest").unwrap().unwrap().len() as u64, FILE_BYTES_MAX);
}

#[test]
fn nobody_sees_it_and_nothing_is_left() {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    let folder = tempfile::tempdir().unwrap();
    let point = folder.path().to_owned();
    // In a namespace of this test's own, so that the file system mounted here is nobody else's.
    let test = std::thread::spawn(move || {
        use nix::mount::{MsFlags, mount, umount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS | nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("tmpfs"), &point, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let layers = layers(&point, 2);
        put(&layers[0], "file", "x");
        let own = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let before = own();
        let view = RootView::of_layers("test", &layers).unwrap();
        assert_eq!(own(), before);
        assert_eq!(read(&view, "file").as_deref(), Some("x"));
        // The kernel tells a watch when the file system is no longer in use by anybody.
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&watch, layers[0].join("file"), inotify::WatchFlags::DELETE_SELF).unwrap();
        umount(&point).unwrap();
        let events = || rustix::io::read(&watch, &mut [0_u8; 512]);
        assert_eq!(events(), Err(rustix::io::Errno::AGAIN), "the view holds its layers");
        drop(view);
        assert!(events().is_ok(), "the overlay and so its layers are gone at once");
    });
    test.join().unwrap();
    assert_eq!(mounts(), before);
}

#[test]
fn nothing_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let layers = layers(folder.path(), 2);
    let view = RootView::of_layers("test", &layers).unwrap();
    let written = rustix::fs::mkdirat(view.as_fd(), "new", Mode::RWXU);
    assert_eq!(written, Err(rustix::io::Errno::ROFS));
}

#[test]
fn a_missing_layer_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let error = RootView::of_layers("test", &[missing]).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn a_folder_is_copied_out_without_privileges() {
    let folder = tempfile::tempdir().unwrap();
    let layers = layers(folder.path(), 2);
    put(&layers[1], "etc/keystone/keystone.conf", "bottom");
    put(&layers[0], "etc/keystone/paste.ini", "top");
    put(&layers[0], "etc/keystone/program", "evil");
    let program = layers[0].join("etc/keystone/program");
    chown(&program, Some(64062), Some(64062)).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).unwrap();
    rustix::fs::setxattr(&program, "trusted.kept", b"yes", XattrFlags::empty()).unwrap();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    rustix::fs::setxattr(&program, "security.capability", &capability, XattrFlags::empty()).unwrap();
    fs::hard_link(&program, layers[0].join("etc/keystone/twin")).unwrap();
    symlink("keystone", layers[1].join("etc/linked")).unwrap();
    fs::set_permissions(layers[0].join("etc/keystone"), fs::Permissions::from_mode(0o2750)).unwrap();

    let view = RootView::of_layers("test", &layers).unwrap();
    let into = folder.path().join("conf");
    view.copy_tree("/etc/linked", &into).unwrap();
    assert_eq!(fs::read_to_string(into.join("keystone.conf")).unwrap(), "bottom");
    assert_eq!(fs::read_to_string(into.join("paste.ini")).unwrap(), "top");
    let copy = into.join("program").metadata().unwrap();
    assert_eq!((copy.mode() & 0o7777, copy.uid(), copy.gid()), (0o755, 64062, 64062));
    assert_eq!(copy.ino(), into.join("twin").metadata().unwrap().ino());
    assert_eq!(into.metadata().unwrap().mode() & 0o7777, 0o2750);
    let mut value = [0; 100];
    assert_eq!(rustix::fs::getxattr(into.join("program"), "trusted.kept", &mut value[..]), Ok(3));
    assert!(rustix::fs::getxattr(into.join("program"), "security.capability", &mut value[..]).is_err());

    let missing = view.copy_tree("/etc/nova", &folder.path().join("nova"));
    assert!(matches!(missing, Err(Error::NotInImage { .. })));
    assert!(!folder.path().join("nova").exists());
}
