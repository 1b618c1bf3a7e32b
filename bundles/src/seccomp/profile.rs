//! Reads a seccomp profile, in Docker's form or in that of a bundle's `linux.seccomp`, so that an error names the key.
//! It does not know which of its rules apply to a container.

use std::collections::HashSet;
use std::path::PathBuf;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
    LinuxSyscallBuilder,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A profile as it is written.
#[derive(Debug)]
pub(super) struct Profile {
    pub(super) default_action: LinuxSeccompAction,
    pub(super) default_errno: Option<u32>,
    /// The form of a bundle.
    pub(super) architectures: Vec<Arch>,
    /// Docker's form: of these the one that fits is taken.
    pub(super) architecture_map: Vec<ArchitectureEntry>,
    pub(super) flags: Vec<LinuxSeccompFilterFlag>,
    pub(super) listener_path: Option<PathBuf>,
    pub(super) listener_metadata: Option<String>,
    pub(super) rules: Vec<Rule>,
}

/// An architecture with those that its kernel also runs.
#[derive(Debug)]
pub(super) struct ArchitectureEntry {
    pub(super) architecture: Arch,
    pub(super) sub_architectures: Vec<Arch>,
}

/// What to do about some system calls, and when.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) call: LinuxSyscall,
    pub(super) includes: Condition,
    pub(super) excludes: Condition,
}

/// When a rule applies, or does not.
#[derive(Debug, Default)]
pub(super) struct Condition {
    pub(super) capabilities: HashSet<Capability>,
    pub(super) machines: Vec<String>,
    pub(super) kernel_min: Option<(u32, u32)>,
}

/// What is wrong with a profile, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// As in `syscalls[3].args[0].op`; empty for the whole.
    pub(super) key: String,
    pub(super) reason: String,
}

impl Profile {
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let value: Value = serde_json::from_str(text)
            .map_err(|error| Problem { key: String::new(), reason: format!("it is not JSON: {error}") })?;
        let mut top = Object::of(String::new(), value)?;
        let profile = Self {
            default_action: top.required("defaultAction")?,
            default_errno: top.optional("defaultErrnoRet")?,
            architectures: top.optional("architectures")?.unwrap_or_default(),
            architecture_map: top.list("archMap", ArchitectureEntry::read)?,
            flags: top.optional("flags")?.unwrap_or_default(),
            listener_path: top.optional("listenerPath")?,
            listener_metadata: top.optional("listenerMetadata")?,
            rules: top.list("syscalls", Rule::read)?,
        };
        // Podman's form has names besides the numbers.
        let _: Option<String> = top.optional("defaultErrno")?;
        top.end()?;
        if !profile.architectures.is_empty() && !profile.architecture_map.is_empty() {
            let reason = "architectures is there too, and only one of the two can be".to_owned();
            return Err(Problem { key: "archMap".to_owned(), reason });
        }
        Ok(profile)
    }
}

impl ArchitectureEntry {
    fn read(mut object: Object) -> Result<Self, Problem> {
        let entry = Self {
            architecture: object.required("architecture")?,
            sub_architectures: object.optional("subArchitectures")?.unwrap_or_default(),
        };
        object.end()?;
        Ok(entry)
    }
}

impl Rule {
    fn read(mut object: Object) -> Result<Self, Problem> {
        let name: Option<String> = object.optional("name")?;
        let names: Option<Vec<String>> = object.optional("names")?;
        let names = match (name, names.unwrap_or_default()) {
            (Some(name), names) if names.is_empty() => vec![name],
            (None, names) if !names.is_empty() => names,
            (Some(_), _) => {
                return Err(object.problem("name", "names is there too, and only one of the two can be"));
            }
            (None, _) => return Err(object.problem("names", "it is missing or empty")),
        };
        let action: LinuxSeccompAction = object.required("action")?;
        let mut call = LinuxSyscallBuilder::default().names(names).action(action);
        if let Some(errno) = object.optional::<u32>("errnoRet")? {
            call = call.errno_ret(errno);
        }
        let arguments = object.list("args", read_argument)?;
        if !arguments.is_empty() {
            call = call.args(arguments);
        }
        let includes = object.optional_object("includes")?.map(Condition::read).transpose()?;
        let excludes = object.optional_object("excludes")?.map(Condition::read).transpose()?;
        let _: Option<String> = object.optional("comment")?;
        let _: Option<String> = object.optional("errno")?;
        object.end()?;
        Ok(Self {
            // OK because every field of the builder has a default.
            call: call.build().expect("a rule is complete"),
            includes: includes.unwrap_or_default(),
            excludes: excludes.unwrap_or_default(),
        })
    }
}

/// A comparison of an argument. The kernel passes six.
fn read_argument(mut object: Object) -> Result<LinuxSeccompArg, Problem> {
    let index: usize = object.required("index")?;
    if index > 5 {
        return Err(object.problem("index", "a system call has the arguments 0 to 5"));
    }
    let mut argument = oci_spec::runtime::LinuxSeccompArgBuilder::default()
        .index(index)
        .value(object.required::<u64>("value")?)
        .op(object.required::<oci_spec::runtime::LinuxSeccompOperator>("op")?);
    if let Some(second) = object.optional::<u64>("valueTwo")? {
        argument = argument.value_two(second);
    }
    object.end()?;
    // OK because every field of the builder has a default.
    Ok(argument.build().expect("an argument is complete"))
}

impl Condition {
    fn read(mut object: Object) -> Result<Self, Problem> {
        let mut capabilities = HashSet::new();
        for name in object.optional::<Vec<String>>("caps")?.unwrap_or_default() {
            let known = crate::bundle::capability(&name);
            capabilities.insert(known.ok_or_else(|| object.problem("caps", &format!("{name} is unknown")))?);
        }
        let machines = object.optional("arches")?.unwrap_or_default();
        let kernel_min = match object.optional::<String>("minKernel")? {
            Some(text) => Some(two_numbers(&text).ok_or_else(|| {
                object.problem("minKernel", &format!("{text:?} is not a kernel's version, as in \"4.8\""))
            })?),
            None => None,
        };
        object.end()?;
        Ok(Self { capabilities, machines, kernel_min })
    }
}

fn two_numbers(text: &str) -> Option<(u32, u32)> {
    let (first, second) = text.split_once('.')?;
    Some((first.parse().ok()?, second.parse().ok()?))
}

/// A JSON object from which keys are taken; what is left at the end is unknown.
struct Object {
    path: String,
    entries: Map<String, Value>,
}

impl Object {
    fn of(path: String, value: Value) -> Result<Self, Problem> {
        match value {
            Value::Object(entries) => Ok(Self { path, entries }),
            _ => Err(Problem { key: path, reason: "it is not an object".to_owned() }),
        }
    }

    fn optional<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, Problem> {
        let Some(value) = self.take(key) else { return Ok(None) };
        serde_json::from_value(value).map(Some).map_err(|error| self.problem(key, &error.to_string()))
    }

    fn required<T: DeserializeOwned>(&mut self, key: &str) -> Result<T, Problem> {
        self.optional(key)?.ok_or_else(|| self.problem(key, "it is missing"))
    }

    fn optional_object(&mut self, key: &str) -> Result<Option<Self>, Problem> {
        let path = self.path_of(key);
        self.take(key).map(|value| Self::of(path, value)).transpose()
    }

    fn list<T>(&mut self, key: &str, read: fn(Self) -> Result<T, Problem>) -> Result<Vec<T>, Problem> {
        let path = self.path_of(key);
        let Some(value) = self.take(key) else { return Ok(Vec::new()) };
        let Value::Array(values) = value else { return Err(self.problem(key, "it is not a list")) };
        let read_one = |(number, value)| read(Self::of(format!("{path}[{number}]"), value)?);
        values.into_iter().enumerate().map(read_one).collect()
    }

    /// A key that is null is taken for one that is not there, as Go writes it.
    fn take(&mut self, key: &str) -> Option<Value> {
        self.entries.remove(key).filter(|value| !value.is_null())
    }

    fn end(self) -> Result<(), Problem> {
        match self.entries.keys().next() {
            Some(key) => Err(self.problem(key, "it is unknown")),
            None => Ok(()),
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn problem(&self, key: &str, reason: &str) -> Problem {
        Problem { key: self.path_of(key), reason: reason.to_owned() }
    }
}
