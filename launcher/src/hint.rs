//! What to type, or look at, after an error: one hint for each error that has a way out.
//! It knows the errors of all rooms and nothing of how they came about.

use std::io;

use bundles::store::Excess;

use crate::error::{Access, Error};
use crate::layout::ROOT_VARIABLE;
use crate::print::amount::short_id;
use crate::settings_swap::When;

/// The hint for an error; `None` when nothing better than the error's own words is known.
pub(crate) fn hint(error: &Error) -> Option<String> {
    match error {
        Error::Bundles(error) => bundles(error),
        Error::Runtime(error) => runtime(error),
        Error::Io { source, .. } => system(source),
        Error::Output { .. } | Error::Some { .. } | Error::Unfit { .. } => None,
        Error::StoreBroken { in_use: false, .. } => {
            Some("opsrun fsck --repair, then load the images again".into())
        }
        Error::StoreBroken { in_use: true, .. } => {
            Some("stop what runs from it, then: opsrun fsck --repair, and load the images again".into())
        }
        Error::NothingToCommit { service, .. } => Some(format!("opsrun start {service}")),
        Error::ArchiveToTerminal => Some("name a file: -o FILE".into()),
        // sudo drops the variable unless it is told.
        Error::NotRoot { command, root: Some(root) } => {
            Some(format!("sudo {ROOT_VARIABLE}={} {command}", root.display()))
        }
        Error::NotRoot { command, root: None } => Some(format!("sudo {command}")),
        Error::Root { .. } => {
            Some("set OPSRUN_ROOT to the absolute path of a folder of its own, or unset it".into())
        }
        Error::Settings { .. } => Some(
            "correct the line or take it out: what the file does not say, the image and the catalogue do"
                .into(),
        ),
        Error::Rules { settings, .. } => {
            Some(format!("say it under [health] or [stop] in {}", settings.display()))
        }
        Error::NoLimits { .. } => Some("opsrun update --help".into()),
        Error::Limits { name, .. } => Some(format!(
            "change --{}, or {name} under [limits] in the service's settings",
            name.replace('_', "-")
        )),
        Error::NoService { service, have } if have.is_empty() => Some(format!("opsrun start {service}")),
        Error::NoService { have, .. } => {
            Some(format!("there are: {}; `opsrun start` makes a new one", have.join(", ")))
        }
        Error::NoGeneration { service, .. } | Error::GenerationGone { service, .. } => Some(format!(
            "opsrun history {service}; `generations.keep` in its settings says how many are kept"
        )),
        Error::ImageGone { image, image_id, .. } => Some(format!(
            "opsrun load FILE, or opsrun pull {image}; it must be the image with the id {}",
            short_id(image_id)
        )),
        Error::AlreadyActive { service, .. } => Some(format!(
            "opsrun rollback {service} GENERATION; `opsrun history {service}` shows which there are"
        )),
        Error::NoPlaceForConfiguration { .. } => {
            Some("say where it sees one: conf = \"/etc/…\" under [folders] in its settings".into())
        }
        Error::NotAFolder { .. } => None,
        Error::NothingToAsk { service } => Some(format!("name one: `ports` in /etc/opsrun/{service}.toml")),
        Error::SwapOptions { .. } => Some("opsrun swap --help".into()),
        Error::NothingBefore { service, .. } => Some(format!("opsrun history {service}")),
        Error::NoImage { pull: Some(pull), .. } => Some(format!("opsrun pull {pull}, or opsrun load FILE")),
        Error::NoImage { image, .. } => {
            Some(format!("opsrun load FILE, then `opsrun images` must show {image}"))
        }
        Error::NoRelease { line, .. } => Some(line.clone()),
        Error::WhichRelease { line, .. } => Some(format!("name one of them: {line}")),
        Error::NoConfiguration { service, others: false, .. } => {
            Some(format!("opsrun config init {service}"))
        }
        Error::NoConfiguration { file, .. } => Some(format!(
            "write {}, or name the right file under [configuration] in the service's settings",
            file.display()
        )),
        Error::ConfigurationNotEmpty { folder } => {
            Some(format!("move it away first: mv {0} {0}.old", folder.display()))
        }
        Error::ImageWithoutConfiguration { into, .. } => {
            Some(format!("write the files into {} yourself", into.display()))
        }
        Error::Access { path, access, uid, gid, mode, .. } => Some(match access {
            Access::Write => format!("chown {uid}:{gid} {}", path.display()),
            Access::Read | Access::Search => {
                format!("chgrp {gid} {0} && chmod {1:o} {0}", path.display(), mode | (mode & 0o500) >> 3)
            }
        }),
        Error::Cycle { .. } => Some("take one of them out of an `after` in /etc/opsrun".into()),
        Error::BootUnderSystemd => Some("systemctl list-units 'opsrun@*' shows what it started".into()),
        Error::NameTaken { .. } => Some("choose another --name, or leave it out".into()),
        Error::StillRunning { service, .. } => {
            Some(format!("opsrun stop {service}, or opsrun rm --force {service}"))
        }
        Error::Refused { .. } => None,
        Error::HookFailed(failed) => Some(match failed.when {
            When::PreSwap => {
                "nothing else was changed; [hooks] in the service's settings says what is run".to_owned()
            }
            When::PostCommit => format!(
                "once that is mended, `opsrun swap {} {}` runs what is left of its hooks",
                failed.service, failed.release
            ),
        }),
        Error::WentBack { service, .. } | Error::NeitherServes { service, .. } => {
            Some(format!("opsrun logs {service}; opsrun status {service}"))
        }
    }
}

fn bundles(error: &bundles::Error) -> Option<String> {
    use bundles::Error as E;
    let hint = match error {
        E::Io { source, .. } | E::EntryRefused { source, .. } => return system(source),
        E::DiskFull { .. } => DISK_FULL.into(),
        E::TooLarge { source: Excess::Unpacked { .. }, .. } => {
            "if you trust it: the same with a larger --max-unpacked, or max_unpacked in /etc/opsrun/opsrun.toml".into()
        }
        E::TooLarge { source: Excess::Ratio { .. }, .. } => {
            "if you trust it: the same with a larger --max-ratio, or max_ratio in /etc/opsrun/opsrun.toml".into()
        }
        E::TooLarge { source: Excess::Files { .. }, .. } => {
            "if you trust it: the same with a larger --max-files, or max_files in /etc/opsrun/opsrun.toml".into()
        }
        E::InvalidReference { .. } => {
            "a name looks like keystone:zed or quay.io/openstack.kolla/keystone:2025.1".into()
        }
        E::NoSource { .. } => "name an archive, a folder in OCI layout, or - for standard input".into(),
        E::Download { source, .. } => return bundles(source),
        E::NoRegistry { wanted } => format!(
            "opsrun pull REGISTRY/{wanted}, or default_registry = \"REGISTRY\" in /etc/opsrun/opsrun.toml"
        ),
        E::Denied { had_credentials: true, .. } => {
            "`podman login` or `docker login` with a user who may pull it; the registry can also have no such image"
                .into()
        }
        E::Denied { host, .. } => {
            format!("podman login {host}, or docker login {host}; the registry can also have no such image")
        }
        E::NotInRegistry { have, .. } if !have.is_empty() => format!("there are: {}", have.join(", ")),
        E::NotInRegistry { .. } => "check its name; if that is right, push it again".into(),
        // What Go's servers say.
        E::Answered { host, status: 400, said } if said.contains("HTTPS server") => format!(
            "it speaks TLS: ca = \"/PATH.pem\", or insecure = false, under [registry.\"{host}\"] in /etc/opsrun/opsrun.toml"
        ),
        E::Unreachable { .. } => "check the registry's name and port, and the way to it".into(),
        E::Stalled { .. }
        | E::BrokeOff { .. }
        | E::ComeLater { .. }
        | E::Answered { status: 408 | 429 | 500.., .. } => {
            "try again later; [pull] in /etc/opsrun/opsrun.toml says how patient opsrun is".into()
        }
        E::Untrusted { host, is_plain: true, .. } | E::WithoutTls { to: host, .. } => format!(
            "if that is as it should be: insecure = true under [registry.\"{host}\"] in /etc/opsrun/opsrun.toml"
        ),
        E::Untrusted { host, .. } => {
            format!("ca = \"/PATH.pem\" under [registry.\"{host}\"] in /etc/opsrun/opsrun.toml")
        }
        E::NoSystemCertificates { .. } => "apt install ca-certificates".into(),
        E::SchemaOne { .. } => "push it anew with a tool of the last years: skopeo copy".into(),
        E::Credentials { .. } => "`podman login` or `docker login` writes them anew".into(),
        E::CredentialProgram { program, host, reason, .. } if reason != "is not installed" => {
            format!("what it says: echo {host} | {program} get")
        }
        E::CredentialProgram { .. } => "install it, or `podman login`, which needs no such program".into(),
        E::NotAnImage { .. } => {
            "opsrun loads what `docker save`, `podman save`, `buildah push` and `skopeo copy` write".into()
        }
        E::Truncated { .. }
        | E::Damaged { .. }
        | E::Document { .. }
        | E::BlobMissing { .. }
        | E::WrongSize { .. }
        | E::WrongDigest { .. }
        | E::WrongDiffId { .. }
        | E::Decompress { .. } => "save or copy the image again, and compare `sha256sum` at both ends".into(),
        E::OtherPlatform { wanted, .. } => format!("build or save the image for {wanted}"),
        E::Unnamed { tag, .. } => {
            format!("opsrun load --tag NAME:{} FILE", tag.as_deref().unwrap_or("RELEASE"))
        }
        E::NameForSeveral { .. } => "leave out --tag: each image then keeps its own name".into(),
        E::StoreNewer { .. } => "use the opsrun that wrote it, or a newer one".into(),
        E::StoreCorrupt { .. } | E::StoreMissing { .. } => {
            "`opsrun fsck` says what is broken; with --repair it makes room for loading it again".into()
        }
        E::NoImage { .. } => "`opsrun images` lists what is loaded".into(),
        E::AmbiguousImage { have, .. } => format!("type one of: {}", have.join(", ")),
        E::NoFrame { image, .. } => format!("opsrun rmi {image}, and load it again"),
        E::ImageInUse { by, .. } if by.ends_with("can go back to it") => {
            let service = by.split(',').next().unwrap_or_default();
            format!("`opsrun history {service}`; `generations.keep` in its settings says how many are kept")
        }
        E::ImageInUse { by, .. } if by.contains(' ') => "wait until it has ended".into(),
        E::ImageInUse { by, .. } => format!("opsrun stop {by} && opsrun rm {by}"),
        E::NoUser { .. } => {
            "name another user: `user = \"…\"` in the service's settings, or -u; a number always works".into()
        }
        E::NoEntrypoint { .. } => {
            "check the image's ENTRYPOINT and CMD with `opsrun inspect --type image`, or run another program"
                .into()
        }
        E::NothingToRun { .. } => {
            "say what to run behind the image's name, or as `command` in the settings".into()
        }
        E::IdOutOfRange { .. } => "name a user that the image knows, or a smaller number".into(),
        E::NotExecutable { .. } => "make it executable in the image, or run it by a shell: sh FILE".into(),
        E::NoInterpreter { .. } => "install it in the image, or correct the first line of the program".into(),
        E::WorkingDirectory { .. } => "begin in another folder: -w DIR".into(),
        E::NoMountSource { path, .. } => format!("mkdir -p {}", path.display()),
        E::Mount { .. } => "mount it on another path, or leave it out".into(),
        E::UnknownCapability { .. } => "capabilities(7) lists them: NET_ADMIN, SYS_NICE, …".into(),
        E::SeccompProfile { .. } => "the form is Docker's; `seccomp = \"default\"` is always there".into(),
        E::NoOverlay => NO_OVERLAY.into(),
        E::NotEmpty { path } => format!("move it away first: mv {0} {0}.old", path.display()),
        E::CopyUnderWay { .. } => "wait until it has ended".into(),
        E::DeviceInFolder { path } => format!("configuration needs none: rm {}", path.display()),
        _ => return None,
    };
    Some(hint)
}

fn runtime(error: &runtime::Error) -> Option<String> {
    use runtime::Error as E;
    let hint = match error {
        E::Io { source, .. } => return system(source),
        E::AlreadyRunning { service, .. } => {
            format!("opsrun restart {service}, or opsrun stop {service} first")
        }
        E::NotRunning { service } => format!("opsrun start {service}"),
        E::BeingStarted { service } | E::Swapping { service, .. } => format!("opsrun status {service}"),
        E::Busy { .. } => "wait until it has ended; `ps -fp PROCESS` shows what it is".into(),
        E::PortTaken { .. } => {
            "stop what listens there, or give one of the two another port in its configuration".into()
        }
        E::StartFailed { source, .. } if is_of_limits(source) => HOST_LIMITS.into(),
        E::StartFailed { service, .. } => format!("opsrun logs {service}"),
        E::NotUpdated { source, .. } if is_of_limits(source) && !source.to_string().contains("killed") => {
            HOST_LIMITS.into()
        }
        E::NotUpdated { service, .. } => {
            format!("give it more than `opsrun stats {service}` says, or start it anew with that limit")
        }
        E::NoOverlay => NO_OVERLAY.into(),
        E::Seccomp { .. } => "opsrun doctor; or choose another `seccomp` in the service's settings".into(),
        E::Limit { source, .. } if source.to_string().contains("cgroup v1") => {
            "boot with systemd.unified_cgroup_hierarchy=1, or go without: --allow-unenforced".into()
        }
        E::Limit { .. } => HOST_LIMITS.into(),
        E::CgroupsReadOnly => "mount -o remount,rw /sys/fs/cgroup".into(),
        E::NoTerminal => "leave out -t".into(),
        E::RecordCorrupt { path, .. } => {
            let service =
                path.parent().and_then(std::path::Path::file_name).unwrap_or_default().display().to_string();
            format!(
                "opsrun start {service} sets it aside, ends what may run of it, and starts it; opsrun stop {service} only ends it"
            )
        }
        E::NoOutput { service, have, .. } => match have.as_slice() {
            [] => format!("opsrun logs {service} has all there is"),
            have => format!(
                "there is output of: {}",
                have.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
            ),
        },
        E::RecordNewer { .. } | E::HistoryNewer { .. } => {
            "use the opsrun that wrote it, or a newer one".into()
        }
        E::Execute { missing: true, program, .. } if !program.starts_with('/') => {
            "it is looked for in the PATH of the image; a full path always works".into()
        }
        E::Container { .. } => "opsrun doctor".into(),
        E::Systemd { unit, .. } => format!("systemctl status {unit}; journalctl -u {unit}"),
        E::Supervisor { service, .. } | E::SupervisorGone { service } => format!("opsrun status {service}"),
        _ => return None,
    };
    Some(hint)
}

const DISK_FULL: &str = "`df -h` and `df -i` show what is full; `opsrun rmi IMAGE` frees what an image needs";

const HOST_LIMITS: &str = "`opsrun doctor` says what the host offers; --allow-unenforced goes without";

const NO_OVERLAY: &str = "modprobe overlay; `opsrun doctor` says what else the kernel lacks";

/// Whether what a supervisor says is that the host cannot keep a limit ([`runtime::Error::Limit`]).
fn is_of_limits(failure: &runtime::Failure) -> bool {
    failure.causes.iter().any(|cause| cause.starts_with("could not set the limit"))
}

/// The way out of what the kernel refused.
fn system(error: &io::Error) -> Option<String> {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => return Some(DISK_FULL.into()),
        io::ErrorKind::ReadOnlyFilesystem => {
            return Some("OPSRUN_ROOT=DIR puts everything below a folder that can be written to".into());
        }
        _ => {}
    }
    // fs_err wraps an error to add the path, and the number is then only in the source.
    let inner = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    let number = error.raw_os_error().or_else(|| inner.and_then(io::Error::raw_os_error));
    match number.map(nix::errno::Errno::from_raw) {
        // mount(2): the kernel has no such file system.
        Some(nix::errno::Errno::ENODEV) => Some(NO_OVERLAY.into()),
        Some(nix::errno::Errno::ENOSYS | nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::EPERM) => {
            Some("opsrun doctor".into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_number_is_found_behind_a_path() {
        let wrapped = fs_err::read("/proc/self/mem").expect_err("OK because address 0 is never mapped");
        assert_eq!(system(&wrapped), None);
        let no_overlay = io::Error::from_raw_os_error(19);
        assert!(system(&no_overlay).unwrap().contains("modprobe overlay"));
        assert!(system(&io::Error::from_raw_os_error(28)).unwrap().contains("df -h"));
    }

    #[test]
    fn the_hint_for_an_unreadable_file_gives_only_the_group() {
        let error = Error::Access {
            service: "keystone".into(),
            path: "/opt/keystone/conf/keystone.conf".into(),
            access: Access::Read,
            uid: 42425,
            gid: 42425,
            user: None,
            mode: 0o600,
        };
        assert_eq!(
            hint(&error).unwrap(),
            "chgrp 42425 /opt/keystone/conf/keystone.conf && chmod 640 /opt/keystone/conf/keystone.conf"
        );
    }
}
