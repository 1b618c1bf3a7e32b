//! Which names images get, and what is found by which name.

use std::fs;

use bundles::archive::Source;
use bundles::reference::Reference;
use bundles::store::{Image, LoadOptions};
use bundles::{Error, Result};
use serde_json::json;

use crate::fixture::{GZIP, Item, Layout, Place, archive_of, docker_files, gzip, layout_of, tar_of};

fn layer(content: &str) -> Vec<u8> {
    tar_of([Item::file("content", content)])
}

fn load_as(place: &Place, archive: &[u8], tag: &str) -> Result<Vec<Image>> {
    let path = place.path("archive.tar");
    fs::write(&path, archive).unwrap();
    let options = LoadOptions { tag: Some(tag.parse()?), platform: None, ..LoadOptions::default() };
    place.store.load(&Source::of(path)?, &options, &mut ())
}

fn names(image: &Image) -> Vec<String> {
    image.names.iter().map(Reference::to_string).collect()
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

#[test]
fn a_given_name_replaces_those_in_the_archive() {
    let place = Place::new();
    let archive = archive_of(&docker_files(&[(&["localhost/keystone:zed"], &[layer("1")])]));
    let images = load_as(&place, &archive, "ks:test").unwrap();
    assert_eq!(names(&images[0]), ["ks:test"]);
    assert_eq!(names(&load_as(&place, &archive, "quay.io/ks").unwrap()[0]), ["ks:test", "quay.io/ks:latest"]);
    assert!(matches!(place.store.find(&reference("keystone:zed")), Err(Error::NoImage { .. })));
    let digest = format!("ks@{}", images[0].id);
    assert!(matches!(load_as(&place, &archive, &digest), Err(Error::InvalidReference { .. })));
}

#[test]
fn images_without_a_name() {
    let place = Place::new();
    let unnamed = archive_of(&docker_files(&[(&[], &[layer("1")])]));
    match place.refuse(&unnamed) {
        Error::Unnamed { tag: None, images: 1, .. } => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(names(&load_as(&place, &unnamed, "keystone:zed").unwrap()[0]), ["keystone:zed"]);
    // What `skopeo copy … oci:FOLDER:zed` writes.
    match place.refuse(&archive_of(&layout_of("zed", &[layer("2")]))) {
        Error::Unnamed { tag: Some(tag), images: 1, .. } => assert_eq!(tag, "zed"),
        other => panic!("{other:?}"),
    }
    let two: [(&[&str], &[Vec<u8>]); 2] = [(&["a:1"], &[layer("3")]), (&[], &[layer("4")])];
    let error = place.refuse(&archive_of(&docker_files(&two)));
    assert!(matches!(error, Error::Unnamed { images: 2, .. }), "{error:?}");
    fs::write(place.path("two.tar"), archive_of(&docker_files(&two))).unwrap();
    let error = load_as(&place, &archive_of(&docker_files(&two)), "a:2");
    assert!(matches!(error, Err(Error::NameForSeveral { images: 2, .. })));
}

#[test]
fn names_in_layouts() {
    for (annotations, expected) in [
        (json!({ "org.opencontainers.image.ref.name": "localhost/keystone:zed" }), "keystone:zed"),
        (json!({ "org.opencontainers.image.ref.name": "keystone:zed" }), "keystone:zed"),
        (json!({ "org.opencontainers.image.ref.name": "quay.io/a/keystone" }), "quay.io/a/keystone:latest"),
        (
            json!({
                "io.containerd.image.name": "docker.io/library/keystone:zed",
                "org.opencontainers.image.ref.name": "zed",
            }),
            "keystone:zed",
        ),
    ] {
        let mut layout = Layout::default();
        let layer = layer("1");
        let mut image = layout.image("amd64", &[(layer.clone(), gzip(&layer), GZIP)]);
        image["annotations"] = annotations;
        layout.list(image.clone(), None);
        let images = Place::new().load(&archive_of(&layout.finish())).unwrap();
        assert_eq!(names(&images[0]), [expected]);
    }
}

#[test]
fn one_image_under_several_names_is_one() {
    let mut layout = Layout::default();
    let layer = layer("1");
    let image = layout.image("amd64", &[(layer.clone(), gzip(&layer), GZIP)]);
    layout.list(image.clone(), Some("keystone:zed"));
    layout.list(image, Some("keystone:latest"));
    let images = Place::new().load(&archive_of(&layout.finish())).unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(names(&images[0]), ["keystone:latest", "keystone:zed"]);
}

#[test]
fn what_is_found_by_which_name() {
    let place = Place::new();
    let load = |name: &str, content: &str| {
        place.load(&archive_of(&layout_of(name, &[layer(content)]))).unwrap().remove(0)
    };
    let zed = load("localhost/keystone:zed", "1");
    let found = |text: &str| place.store.find(&reference(text)).map(|image| image.id);
    let id = zed.id.hex();
    let manifest = zed.manifest.unwrap().to_string();
    let texts = [
        "keystone:zed",
        "keystone",
        "localhost/keystone:zed",
        "docker.io/library/keystone:zed",
        &id,
        &format!("sha256:{id}"),
        &id[..12],
        &format!("sha256:{}", &id[..4]),
        &manifest,
        &format!("keystone@{manifest}"),
    ];
    for text in texts {
        assert_eq!(found(text).unwrap(), zed.id, "{text}");
    }
    let epoxy = load("keystone:epoxy", "2");
    match found("keystone") {
        Err(Error::AmbiguousImage { have, .. }) => assert_eq!(have, ["keystone:epoxy", "keystone:zed"]),
        other => panic!("{other:?}"),
    }
    match found("keystone:juno") {
        Err(Error::NoImage { wanted, have }) => {
            assert_eq!(
                (wanted.as_str(), have),
                ("keystone:juno", vec!["epoxy".to_owned(), "zed".to_owned()])
            );
        }
        other => panic!("{other:?}"),
    }
    for text in ["glance", "glance:zed", "quay.io/keystone:zed", "abc", "sha256:abcd1234"] {
        assert!(matches!(found(text), Err(Error::NoImage { have, .. }) if have.is_empty()), "{text}");
    }
    let latest = load("keystone:latest", "3");
    assert_eq!(found("keystone").unwrap(), latest.id);
    let all: Vec<_> = place.store.images().unwrap().iter().map(|image| image.id).collect();
    assert_eq!(all, [epoxy.id, latest.id, zed.id]);
}

#[test]
fn a_name_moves_to_the_image_loaded_last() {
    let place = Place::new();
    let load = |content: &str| {
        place.load(&archive_of(&docker_files(&[(&["keystone:zed"], &[layer(content)])]))).unwrap().remove(0)
    };
    let (old, new) = (load("1"), load("2"));
    assert_eq!(place.store.find(&reference("keystone:zed")).unwrap().id, new.id);
    let images = place.store.images().unwrap();
    assert_eq!(images.len(), 2);
    assert!(images[1].id == old.id && images[1].names.is_empty(), "it comes last, without a name");
    assert_eq!(place.store.find(&Reference::id(old.id)).unwrap().title(), old.id.to_string());
    let again = load("1");
    assert_eq!((again.id, again.loaded_at_ms), (old.id, old.loaded_at_ms));
    assert_eq!(place.store.find(&reference("keystone:zed")).unwrap().id, old.id);
}
