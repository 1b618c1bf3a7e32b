//! One image full of what is easily got wrong, built by buildah, podman and docker, in every form that these and skopeo write it:
//! opsrun makes of each the same file system as umoci. Does not know what that image means to anybody.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bundles::digest::Digest;
use serde_json::{Value, json};

use crate::docker::Docker;
use crate::fixture::{Item, Layout, Listing, PLAIN, Place, archive_of, tar_of};
use crate::tools::{Tools, are_there, capability, compare, load, merged, unpacked_by_umoci};

/// What each builder is given: an archive to unpack, and then what programs do to it in three steps.
fn write_context(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let long = "l".repeat(200);
    let base = tar_of([
        Item::folder("d/").mode(0o2750).owner(3, 4).mtime(5),
        Item::file("d/capable", "c").mode(0o755).pax("SCHILY.xattr.security.capability", capability(0x20)),
        Item::file("d/noted", "n").pax("SCHILY.xattr.user.note", "of the user's"),
        Item::file("d/owned", "o").owner(2_097_152, 4_000_000_000),
        Item::file(format!("d/{long}/{long}"), "long").mtime(1),
        Item::symlink("d/long-target", format!("/{long}/{long}")),
        Item::file(b"d/not utf8 \xff", "x"),
        Item::file("d/before 1970", "old").pax("mtime", "-5000000"),
    ]);
    fs::write(folder.join("base.tar"), base).unwrap();
    fs::copy("/bin/busybox", folder.join("busybox")).expect("Debian's package busybox-static");
    for (name, script) in [("one", ONE), ("two", TWO), ("three", THREE)] {
        fs::write(folder.join(name), script).unwrap();
    }
    fs::write(folder.join("Dockerfile"), DOCKERFILE).unwrap();
}

const DOCKERFILE: &str = r#"FROM scratch
ADD base.tar /
COPY busybox /bin/busybox
COPY --chown=4294967294:65534 one two three /steps/
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN ["/bin/sh", "-eu", "/steps/one"]
RUN ["/bin/sh", "-eu", "/steps/two"]
RUN ["/bin/sh", "-eu", "/steps/three"]
CMD ["/bin/sh"]
"#;

const ONE: &str = r#"
mkdir -p /a/gone/deep /a/opaque/sub /a/folder /a/sticky /links /odd
echo deep > /a/gone/deep/file; echo hidden > /a/opaque/hidden; echo sub > /a/opaque/sub/hidden; echo in > /a/folder/in
ln -s folder /a/link; ln -s nowhere /a/dangling; ln -s /a/folder /a/absolute
echo one > /links/a; ln /links/a /links/b; ln /links/a /a/c; echo stays > /links/x; ln /links/x /links/y
cp /bin/busybox /a/suid; chmod 6755 /a/suid; chmod 1777 /a/sticky; chown 12:34 /a/sticky
mkfifo -m 620 /odd/pipe; mkfifo /odd/second; chown 5:6 /odd/second
echo begins > /odd/sparse; truncate -s 3M /odd/sparse; echo ends >> /odd/sparse; truncate -s 1M /odd/hole; : > /odd/empty
cd /odd
mkdir -- 'ünïcödé 名前' ' spaced ' '-dash' '...'; echo x > "$(printf 'new\nline')"; echo x > "$(printf 'back\\slash\ttab')"
echo u > 'ünïcödé 名前/ ƒ'; echo h > .hidden; echo w > .wh-but-none; echo star > '*'
touch -d '1965-03-04 05:06:07' old .; touch -d '2100-01-01 00:00:00' late
touch -h -d '1975-03-04 05:06:07' /a/dangling; chown -h 77:78 /a/absolute; chmod 0 /odd/empty
"#;

const TWO: &str = r#"
rm -r /a/gone; rm -r /a/opaque; mkdir -m 711 /a/opaque; echo new > /a/opaque/new
rm -r /a/folder; ln -s opaque /a/folder; rm /a/link; mkdir /a/link; echo in > /a/link/in
rm /a/dangling; mkfifo /a/dangling; rm /odd/pipe; echo file > /odd/pipe; rm /odd/second; mkdir /odd/second
rm /links/a; ln /links/b /links/late; chmod 600 /links/b; echo more >> /a/c; ln /links/x /links/z
chown 99:98 /a/sticky; touch -d '1965-03-04 05:06:07' /a/sticky; mv /odd/old /odd/older; chmod 4711 /d/capable
"#;

const THREE: &str = r#"
rm /a/folder; mkdir /a/folder; echo again > /a/folder/again; rm -r /a/link; ln -s opaque /a/link
mkdir -p /a/gone/deep; echo back > /a/gone/deep/other; rm /a/opaque/new; mkdir /a/opaque/sub; echo newer > /a/opaque/newer
rm /links/y; echo alone > /links/x; rm -r /odd/second; mkfifo /odd/second; rm /odd/.hidden /odd/late
chown 0:0 /d; chmod 755 /d; echo oldest > /odd/oldest; touch -d '1965-03-04 05:06:07' /odd/oldest; touch -d '1969-12-31 23:59:50' /links
"#;

/// Where the image is now: how skopeo calls it, and what opsrun is given.
struct Saved {
    by: &'static str,
    transport: &'static str,
    file: String,
    /// The tag in a layout.
    tag: &'static str,
}

impl Saved {
    fn at(&self, tools: &Tools) -> String {
        format!("{}:{}{}", self.transport, tools.folder.join(&self.file).display(), self.tag)
    }
}

/// Builds the image with a storage of buildah's and podman's, and saves it in all their forms.
fn build_by(tools: &Tools, program: &'static str) -> Vec<Saved> {
    let name = format!("localhost/{program}:1");
    let limits = ["--network=host", "--ulimit=nofile=1024:4096", "--ulimit=nproc=4096:4096"];
    let build = ["build", "--quiet", "--layers", "--isolation=chroot", "--tag", &name];
    tools.run(program, &[&build[..], &limits, &["context"]].concat());
    let saved =
        |by, transport, file: &str, tag| Saved { by, transport, file: format!("{program}-{file}"), tag };
    if program == "buildah" {
        let push =
            |more: &[&str], to: &str| tools.run(program, &[&["push", "-q"], more, &[&name, to]].concat());
        push(&[], "oci-archive:buildah-oci.tar:x:1");
        push(&["--compression-format=zstd"], "oci-archive:buildah-zstd.tar:x:1");
        push(&[], "oci:buildah-layout:x");
        push(&[], "docker-archive:buildah-docker.tar:x:1");
        vec![
            saved("buildah, gzip", "oci-archive", "oci.tar", ""),
            saved("buildah, zstd", "oci-archive", "zstd.tar", ""),
            saved("buildah, a folder", "oci", "layout", ":x"),
            saved("buildah", "docker-archive", "docker.tar", ""),
        ]
    } else {
        let save =
            |form: &str, to: &str| tools.run(program, &["save", "-q", "--format", form, "-o", to, &name]);
        save("docker-archive", "podman-docker.tar");
        save("oci-archive", "podman-oci.tar");
        save("oci-dir", "podman-layout");
        vec![
            saved("podman", "docker-archive", "docker.tar", ""),
            saved("podman", "oci-archive", "oci.tar", ""),
            saved("podman, a folder", "oci", "layout", ""),
        ]
    }
}

/// Builds it by dockerd, and saves it in the form that docker has had from the beginning, and in the one since version 25.
fn build_by_docker(tools: &Tools) -> Vec<Saved> {
    let docker = Docker::new();
    let at = tools.folder.display();
    docker.docker(&format!("build -q --network none -t x:1 {at}/context"));
    docker.docker(&format!("save -o {at}/docker.tar x:1"));
    let saved = |by, file: &str| Saved { by, transport: "docker-archive", file: file.to_owned(), tag: "" };
    fs::write(tools.folder.join("docker-25.tar"), as_since_25(&tools.folder.join("docker.tar"))).unwrap();
    vec![saved("docker", "docker.tar"), saved("docker 25", "docker-25.tar")]
}

/// The archive that docker writes since version 25, of one that it wrote before: a layout and a manifest.json in one.
fn as_since_25(archive: &Path) -> Vec<u8> {
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(fs::File::open(archive).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        files.insert(path, bytes);
    }
    let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    let mut layout = Layout::default();
    let content = |path: &Value| files[path.as_str().unwrap()].as_slice();
    let blob_of = |path: &Value| format!("blobs/sha256/{}", Digest::of(content(path)).hex());
    let layers = manifest[0]["Layers"].as_array().unwrap();
    let descriptors: Vec<Value> = layers.iter().map(|path| layout.blob(PLAIN, content(path))).collect();
    let config = layout.blob("application/vnd.oci.image.config.v1+json", content(&manifest[0]["Config"]));
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let document =
        json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": descriptors });
    let mut listed = layout.blob(media_type, document.to_string().as_bytes());
    listed["annotations"] = json!({
        "io.containerd.image.name": "docker.io/library/x:1",
        "org.opencontainers.image.ref.name": "1",
    });
    layout.list(listed, None);
    let paths: Vec<String> = layers.iter().map(blob_of).collect();
    let old = json!([{ "Config": blob_of(&manifest[0]["Config"]), "RepoTags": ["x:1"], "Layers": paths }]);
    let mut files = layout.finish();
    files.insert("manifest.json".to_owned(), old.to_string().into_bytes());
    archive_of(&files)
}

/// Copies what buildah and docker saved into the other forms.
fn copy_by_skopeo(tools: &Tools) -> Vec<Saved> {
    let copy = |more: &[&str], from: &str, to: &str| {
        tools.run("skopeo", &[&["copy", "-q"], more, &[from, to]].concat());
    };
    copy(&[], "oci-archive:buildah-zstd.tar", "oci:skopeo-layout:x");
    copy(&[], "oci-archive:buildah-oci.tar", "docker-archive:skopeo-docker.tar:x:1");
    copy(&[], "docker-archive:docker.tar", "oci-archive:skopeo-oci.tar:x:1");
    copy(&["--dest-compress-format=zstd"], "docker-archive:docker.tar", "oci:skopeo-zstd:x");
    copy(&["--dest-decompress"], "oci-archive:buildah-oci.tar", "dir:skopeo-folder");
    copy(&["--dest-oci-accept-uncompressed-layers"], "dir:skopeo-folder", "oci:skopeo-plain:x");
    let saved = |by, transport, file: &str, tag| Saved { by, transport, file: file.to_owned(), tag };
    vec![
        saved("skopeo, of buildah's zstd", "oci", "skopeo-layout", ":x"),
        saved("skopeo, of buildah's", "docker-archive", "skopeo-docker.tar", ""),
        saved("skopeo, of docker's", "oci-archive", "skopeo-oci.tar", ""),
        saved("skopeo, zstd", "oci", "skopeo-zstd", ":x"),
        saved("skopeo, plain", "oci", "skopeo-plain", ":x"),
    ]
}

/// What umoci makes of it. It knows no zstd: skopeo decompresses first.
fn by_umoci(tools: &Tools, saved: &Saved, place: &Place) -> Listing {
    let (folder, layout) = (place.path("plain"), place.path("layout"));
    let folder = format!("dir:{}", folder.display());
    tools.run("skopeo", &["copy", "-q", "--dest-decompress", &saved.at(tools), &folder]);
    tools.run("skopeo", &["copy", "-q", &folder, &format!("oci:{}:x", layout.display())]);
    unpacked_by_umoci(place, &layout, "x")
}

/// That the image has what it is for: else the comparison says nothing.
fn assert_nasty(found: &Listing, by: &str) {
    let at = |path: &str| found.get(path).unwrap_or_else(|| panic!("{by}: no {path}: {:?}", found.keys()));
    for (path, kind, content) in [
        ("a/gone/deep/other", "file", "back\n"),
        ("a/opaque/newer", "file", "newer\n"),
        ("a/folder/again", "file", "again\n"),
        ("a/link", "symlink", "opaque"),
        ("a/dangling", "fifo", ""),
        ("odd/second", "fifo", ""),
        ("odd/pipe", "file", "file\n"),
        ("odd/ünïcödé 名前/ ƒ", "file", "u\n"),
    ] {
        assert_eq!((at(path).kind.as_str(), at(path).content.as_str()), (kind, content), "{by}: {path}");
    }
    for gone in
        ["a/gone/deep/file", "a/opaque/hidden", "a/opaque/new", "a/folder/in", "links/a", "odd/.hidden"]
    {
        assert!(!found.contains_key(gone), "{by}: {gone} is still there");
    }
    assert_eq!(
        (at("a/suid").mode, at("a/sticky").mode, at("a/sticky").owner),
        (0o6755, 0o1777, (99, 98)),
        "{by}"
    );
    assert_eq!(at("d/owned").owner, (2_097_152, 4_000_000_000), "{by}");
    // Of what an earlier step made, buildah and docker write 1970 instead.
    assert_eq!(at("odd/oldest").modified.0, -152_391_233, "{by}");
    assert!(at("odd/hole").content.starts_with("1048576 bytes"), "{by}");
    assert!(found.values().any(|thing| thing.same_as.is_some()), "{by}: no hard link");
}

#[test]
fn whoever_built_and_saved_it_umoci_unpacks_the_same() {
    if !are_there(&["buildah", "podman", "dockerd", "docker", "skopeo", "umoci"]) {
        return;
    }
    let place = Place::on_disk();
    let tools = Tools::new(&place);
    write_context(&tools.folder.join("context"));
    let mut all = build_by(&tools, "buildah");
    all.extend(build_by(&tools, "podman"));
    all.extend(build_by_docker(&tools));
    all.extend(copy_by_skopeo(&tools));
    let mut with_capabilities = 0;
    for saved in &all {
        let place = Place::on_disk();
        let image = load(&place, &tools.folder.join(&saved.file), Some("x:1"));
        let ours = merged(&place, &image);
        println!("{} ({}): {} layers, {} files", saved.by, saved.transport, image.layers.len(), ours.len());
        assert_nasty(&ours, saved.by);
        compare(&ours, &by_umoci(&tools, saved, &place));
        with_capabilities += usize::from(ours["d/capable"].xattrs.contains_key("security.capability"));
    }
    assert!(with_capabilities > 0, "no builder kept a capability");
}
