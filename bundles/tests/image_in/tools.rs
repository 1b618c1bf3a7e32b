//! Images that buildah, podman and skopeo write, and the whole file system compared with what umoci unpacks.
//! Where such a tool is missing its test says so loudly, and fails if CI is set.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bundles::archive::Source;
use bundles::digest::Digest;
use bundles::store::{Image, LoadOptions};
use nix::mount::{MsFlags, mount};

use crate::fixture::{
    GZIP, Item, Layout, Listing, PLAIN, Place, ZSTD, gzip, listing, tar_of, write_folder, zstd,
};
use crate::limits::with_own_mounts;

pub fn are_there(tools: &[&str]) -> bool {
    let missing: Vec<_> = tools.iter().filter(|tool| which(tool).is_none()).collect();
    if !missing.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "CI needs {missing:?}");
        eprintln!("NOT TESTED: there is no {missing:?} here");
    }
    missing.is_empty()
}

fn which(tool: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(tool))
        .find(|path| path.is_file())
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).current_dir(folder).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// buildah, podman and skopeo with a storage of their own, so that nothing of the host's is touched.
pub struct Tools {
    pub folder: PathBuf,
    storage: String,
}

impl Tools {
    pub fn new(place: &Place) -> Self {
        let folder = place.path("tools");
        fs::create_dir(&folder).unwrap();
        let at = folder.display();
        let configuration =
            format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{at}/graph\"\nrunroot = \"{at}/run\"\n");
        fs::write(folder.join("storage.conf"), configuration).unwrap();
        Self { storage: format!("{at}/storage.conf"), folder }
    }

    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.folder).stdin(Stdio::null());
        command.env("CONTAINERS_STORAGE_CONF", &self.storage).env("BUILDAH_ISOLATION", "chroot");
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Builds an image of three layers from nothing.
    fn build(&self, name: &str) {
        fs::create_dir_all(self.folder.join("folder/below")).unwrap();
        for (path, content) in
            [("one", "1"), ("two", "second"), ("folder/below/file", "f"), ("folder/other", "o")]
        {
            fs::write(self.folder.join(path), content).unwrap();
        }
        std::os::unix::fs::symlink("below/file", self.folder.join("folder/link")).unwrap();
        let instructions = "FROM scratch\nCOPY one /etc/one\nCOPY --chown=42:43 folder /srv/folder\nCOPY two /etc/one\n\
                            USER 42\nVOLUME [\"/etc/keystone\"]\nSTOPSIGNAL SIGINT\nCMD [\"/bin/true\"]\n";
        fs::write(self.folder.join("Dockerfile"), instructions).unwrap();
        self.run("buildah", &["bud", "--quiet", "--layers", "--tag", name, "."]);
    }
}

pub fn load(place: &Place, path: &Path, tag: Option<&str>) -> Image {
    let options =
        LoadOptions { tag: tag.map(|tag| tag.parse().unwrap()), platform: None, ..LoadOptions::default() };
    let images = place.store.load(&Source::of(path).unwrap(), &options, &mut ()).unwrap();
    assert_eq!(images.len(), 1);
    images.into_iter().next().unwrap()
}

#[test]
fn what_buildah_podman_and_skopeo_write() {
    if !are_there(&["buildah", "podman", "skopeo"]) {
        return;
    }
    let place = Place::new();
    let tools = Tools::new(&place);
    tools.build("localhost/tiny:one");
    let from = "containers-storage:localhost/tiny:one";
    tools.run("skopeo", &["copy", "-q", from, "docker-archive:skopeo.docker:localhost/tiny:one"]);
    tools.run("skopeo", &["copy", "-q", from, "oci-archive:skopeo.oci:localhost/tiny:one"]);
    tools.run("skopeo", &["copy", "-q", from, "oci:layout:one"]);
    tools.run("skopeo", &["copy", "-q", "--dest-compress-format=zstd", from, "oci:zstd:one"]);
    tools.run("buildah", &["push", "-q", "localhost/tiny:one", "docker-archive:buildah.docker:tiny:one"]);
    tools.run("buildah", &["push", "-q", "localhost/tiny:one", "oci-archive:buildah.oci:tiny:one"]);
    tools.run("podman", &["save", "-q", "-o", "podman.docker", "localhost/tiny:one"]);
    tools.run("podman", &["save", "-q", "--format=oci-archive", "-o", "podman.oci", "localhost/tiny:one"]);
    tools.run("podman", &["save", "-q", "--format=oci-dir", "-o", "podman.layout", "localhost/tiny:one"]);
    let id = tools.run("podman", &["inspect", "--format={{.Id}}", "localhost/tiny:one"]);
    for (name, tag) in [
        ("skopeo.docker", None),
        ("skopeo.oci", None),
        ("layout", Some("tiny:one")),
        ("zstd", Some("tiny:one")),
        ("buildah.docker", None),
        ("buildah.oci", None),
        ("podman.docker", None),
        ("podman.oci", None),
        ("podman.layout", Some("tiny:one")),
    ] {
        let image = load(&place, &tools.folder.join(name), tag);
        assert_eq!(image.names, ["tiny:one".parse().unwrap()], "{name}");
        // Docker's format has another configuration, and so another id.
        assert!(image.id.hex() == id || name.ends_with("docker"), "{name}");
        let merged = merged(&place, &image);
        assert_eq!(merged["etc/one"].content, "second", "{name}");
        assert_eq!(
            (merged["srv/folder/link"].content.as_str(), merged["srv/folder/other"].owner),
            ("below/file", (42, 43))
        );
        let configuration = image.configuration.config().as_ref().unwrap();
        assert_eq!(configuration.stop_signal().as_deref(), Some("SIGINT"), "{name}");
        place.store.remove(&image.names[0], &|_| None).unwrap();
    }
}

#[test]
fn several_images_that_podman_saves_together() {
    if !are_there(&["buildah", "podman"]) {
        return;
    }
    let place = Place::new();
    let tools = Tools::new(&place);
    tools.build("localhost/tiny:one");
    fs::write(tools.folder.join("Dockerfile"), "FROM localhost/tiny:one\nCOPY two /more\n").unwrap();
    tools.run("buildah", &["bud", "--quiet", "--tag", "localhost/tiny:two", "."]);
    tools.run("podman", &["save", "-q", "-m", "-o", "both", "localhost/tiny:one", "localhost/tiny:two"]);
    let images = place.load_file(&tools.folder.join("both")).unwrap();
    let names: Vec<String> = images.iter().map(Image::title).collect();
    assert_eq!(names, ["tiny:one", "tiny:two"]);
    assert!(place.store.layer_folders(&images[1]).len() > place.store.layer_folders(&images[0]).len());
}

/// The file system of an image, its layers put on top of each other by overlayfs.
pub fn merged(place: &Place, image: &Image) -> Listing {
    let folders = place.store.layer_folders(image);
    let at = place.path("merged");
    fs::create_dir_all(&at).unwrap();
    with_own_mounts(|| {
        // Overlayfs merges two folders at least.
        let empty = place.path("empty");
        fs::create_dir_all(&empty).unwrap();
        let mut lower: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        lower.push(empty.display().to_string());
        let options = format!("lowerdir={}", lower.join(":"));
        mount(Some("overlay"), &at, Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str())).unwrap();
        listing(&at)
    })
}

pub fn capability(byte: u8) -> Vec<u8> {
    [&[1, 0, 0, 2, byte][..], &[0; 15]].concat()
}

/// All that layers can do to each other, in three of them.
fn layers() -> Vec<Vec<u8>> {
    let bottom = tar_of([
        Item::folder("./").mode(0o755).mtime(1),
        Item::folder("./etc/").mode(0o2750).owner(0, 42).mtime(2),
        Item::file("./etc/kept", "kept").mode(0o640).owner(1, 2).pax("mtime", "3.125"),
        Item::file("./etc/gone", "gone"),
        Item::file("./etc/changed", "old").mtime(4),
        Item::folder("./etc/goes/"),
        Item::folder("./etc/goes/deep/"),
        Item::file("./etc/goes/deep/file", ""),
        Item::folder("./opaque/").mode(0o700),
        Item::file("./opaque/hidden", "hidden"),
        Item::folder("./opaque/folder/"),
        Item::file("./opaque/folder/hidden", "hidden"),
        Item::folder("./replaced/"),
        Item::file("./replaced/inside", ""),
        Item::file("./becomes-folder", "a file"),
        Item::file("./bin/setuid", "s").mode(0o4755),
        Item::file("./bin/ping", "p").pax("SCHILY.xattr.security.capability", capability(0x20)),
        Item::hard_link("./bin/ping6", "./bin/ping"),
        Item::folder("./bin/").mtime(9),
        Item::symlink("./lib", "usr/lib").owner(5, 5).mtime(5),
        Item::folder("./usr/lib/"),
        Item::new(b'3', "./dev/null").device(1, 3).mode(0o666),
        Item::new(b'4', "./dev/disk").device(8, 1).mode(0o660).owner(0, 6),
        Item::new(b'6', "./dev/pipe").mode(0o600),
        Item::folder("./dev/").mtime(6),
        Item::folder("./usr/").mtime(6),
        Item::file("./note", "n").pax("SCHILY.xattr.user.note", "a\nb"),
        Item::file("./empty", ""),
    ]);
    let middle = tar_of([
        Item::folder("etc/").mode(0o750).owner(0, 43).mtime(12),
        Item::file("etc/.wh.gone", ""),
        Item::file("etc/changed", "new and longer").mtime(13),
        Item::file("etc/.wh.goes", ""),
        Item::folder("opaque/").mode(0o711).mtime(14),
        Item::file("opaque/.wh..wh..opq", ""),
        Item::file("opaque/new", "new"),
        Item::file("replaced", "a file now").mtime(15),
        Item::folder("becomes-folder/").mtime(16),
        Item::file("becomes-folder/inside", "i"),
        Item::file(".wh.note", ""),
        Item::folder("bin/").mtime(17),
        Item::file("bin/setuid", "s").mode(0o755),
    ]);
    let top = tar_of([
        Item::folder("./").mode(0o711).owner(7, 8).mtime(100),
        Item::folder("etc/").mode(0o755).mtime(22),
        Item::folder("etc/goes/").mtime(23),
        Item::file("etc/goes/back", "again"),
        Item::file("note", "another"),
        Item::file("opaque/folder", "a file of the old folder's name"),
        Item::folder("opaque/").mtime(24),
        Item::file("b", [0; 100_000]),
        Item::symlink("etc/link", "../b").mtime(25),
    ]);
    vec![bottom, middle, top]
}

/// What umoci makes of a layout.
pub fn unpacked_by_umoci(place: &Place, layout: &Path, tag: &str) -> Listing {
    let image = format!("{}:{tag}", layout.display());
    let bundle = place.path("umoci");
    run(&place.path(""), "umoci", &["unpack", "--image", &image, &bundle.display().to_string()]);
    listing(&bundle.join("rootfs"))
}

pub fn compare(ours: &Listing, theirs: &Listing) {
    let names = |listing: &Listing| listing.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(ours), names(theirs));
    let different: BTreeMap<_, _> = ours
        .iter()
        .filter(|(name, thing)| theirs[*name] != **thing)
        .map(|(name, thing)| (name, (thing, &theirs[name])))
        .collect();
    assert!(different.is_empty(), "ours and umoci's differ: {different:#?}");
}

#[test]
fn the_same_as_umoci_unpacks() {
    if !are_there(&["umoci"]) {
        return;
    }
    type Pack = fn(&[u8]) -> Vec<u8>;
    for (media_type, pack) in [(PLAIN, <[u8]>::to_vec as Pack), (GZIP, gzip)] {
        let place = Place::new();
        let mut layout = Layout::default();
        let packed: Vec<_> =
            layers().into_iter().map(|layer| (layer.clone(), pack(&layer), media_type)).collect();
        let image = layout.image("amd64", &packed);
        layout.list(image, Some("one"));
        let folder = place.path("layout");
        write_folder(&folder, &layout.finish());
        let image = load(&place, &folder, Some("tiny:one"));
        compare(&merged(&place, &image), &unpacked_by_umoci(&place, &folder, "one"));
    }
}

/// umoci does not know zstd; what comes of it must be what comes of the others.
#[test]
fn zstd_gives_the_same_layers() {
    let mut ids: Vec<Vec<Digest>> = Vec::new();
    let mut listings = Vec::new();
    type Pack = fn(&[u8]) -> Vec<u8>;
    for (media_type, pack) in [(GZIP, gzip as Pack), (ZSTD, zstd)] {
        let place = Place::new();
        let mut layout = Layout::default();
        let packed: Vec<_> =
            layers().into_iter().map(|layer| (layer.clone(), pack(&layer), media_type)).collect();
        let image = layout.image("amd64", &packed);
        layout.list(image, Some("tiny:one"));
        write_folder(&place.path("layout"), &layout.finish());
        let image = load(&place, &place.path("layout"), None);
        ids.push(image.layers.iter().map(|layer| layer.diff_id).collect());
        listings.push(merged(&place, &image));
    }
    assert_eq!(ids[0], ids[1]);
    assert_eq!(listings[0], listings[1]);
}

/// An image that the environment names, as a layout folder and a tag in it: `IMAGE_IN_LAYOUT=/path/to/layout:zed`.
/// The test programs run it on the whole keystone image.
#[test]
fn a_given_image_is_the_same_as_umoci_unpacks() {
    let Some(given) = std::env::var_os("IMAGE_IN_LAYOUT") else { return };
    let given = given.into_string().unwrap();
    let (folder, tag) = given.rsplit_once(':').expect("IMAGE_IN_LAYOUT is a folder, a colon and a tag");
    let place = Place::on_disk();
    let image = load(&place, Path::new(folder), Some("given:image"));
    let ours = merged(&place, &image);
    assert!(ours.len() > 1000, "only {} files", ours.len());
    compare(&ours, &unpacked_by_umoci(&place, Path::new(folder), tag));
}
