//! `mdof assemble`: a target for one array, configured by what its members say.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::carried::short_name;
use super::config::Config;
use super::examine::{self, ArrayReport, Content, Health, Report};
use super::names;
use super::policy::DegradedStart;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Files and block devices.
    pub members: Vec<PathBuf>,
    /// File or block device of the bitmap, if it is not on the members.
    pub bitmap_file: Option<PathBuf>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// NQN of the subsystem; `None` makes one of the array's name.
    pub nqn: Option<String>,
    /// When to start with members missing; `None`: not at all.
    pub start_degraded: Option<DegradedStart>,
}

/// A target that could be started.
#[derive(Debug)]
pub struct Assembled {
    /// What was found.
    pub report: Report,
    /// The configuration of the target, as a file of it would read.
    pub config_text: String,
    /// The same, parsed.
    pub config: Config,
    /// The array.
    pub uuid: Uuid,
}

/// Reads the members and decides whether they can be served, without changing anything.
///
/// # Errors
/// What was found, and why it cannot be served.
pub fn assemble(options: &Options) -> Result<Assembled, (Report, String)> {
    let report = examine::examine(&options.members);
    match configure(&report, options) {
        Ok((config_text, config)) => {
            let uuid = Uuid::from_bytes(report.arrays[0].superblock.set_uuid);
            Ok(Assembled { report, config_text, config, uuid })
        }
        Err(error) => Err((report, error)),
    }
}

/// The only array of the report, if all files belong to it and it can be started.
fn only_array<'a>(report: &'a Report, options: &Options) -> Result<&'a ArrayReport, String> {
    let strangers: Vec<String> = report
        .probes
        .iter()
        .filter_map(|probe| match &probe.content {
            Content::Member(_) => None,
            Content::NoSuperblock(why) | Content::Damaged(why) | Content::Unreadable(why) => {
                Some(format!("{}: {why}", probe.path.display()))
            }
        })
        .collect();
    if !strangers.is_empty() {
        return Err(format!("{}; nothing was started or written", strangers.join("; ")));
    }
    let [array] = &report.arrays[..] else {
        let named = |array: &ArrayReport| {
            let superblock = &array.superblock;
            format!("{} ({})", superblock.name().escape_debug(), superblock.set_uuid_text())
        };
        let arrays: Vec<String> = report.arrays.iter().map(named).collect();
        return Err(format!(
            "the members belong to {} arrays: {}; nothing was started or written",
            arrays.len(),
            arrays.join(", ")
        ));
    };
    let plan = array.plan.as_ref().map_err(Clone::clone)?;
    if plan.is_degraded() && matches!(options.start_degraded, None | Some(DegradedStart::Refuse)) {
        let out = array.members.iter().filter(|member| member.health != Health::InSync);
        let reasons: Vec<String> = out
            .map(|member| {
                let path = report.probes[member.probe].path.display();
                format!("; {path}: {}", member.reason.as_deref().unwrap_or(member.health.name()))
            })
            .collect();
        let missing = array.missing_slots.iter();
        let missing: Vec<String> =
            missing.map(|slot| format!("; no member given is of slot {slot}")).collect();
        return Err(format!(
            "{} of {} members are here and in sync{}{}; it was not started, add --start-degraded \
             to start it with those",
            plan.in_sync,
            plan.slots,
            reasons.concat(),
            missing.concat()
        ));
    }
    Ok(array)
}

/// Name of the configuration in messages; nobody should see it.
const CONFIG_NAME: &str = "(made by mdof assemble)";

fn configure(report: &Report, options: &Options) -> Result<(String, Config), String> {
    let array = only_array(report, options)?;
    let text = config_text(report, array, options)?;
    let config = Config::parse(&text, CONFIG_NAME).map_err(|error| error.to_string())?;
    Ok((text, config))
}

/// A relative path would be taken from the state directory.
fn absolute(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let path = std::path::absolute(path).map_err(|error| format!("{shown}: {error}"))?;
    path.to_str().map(str::to_owned).ok_or_else(|| format!("{shown}: the path is not UTF-8"))
}

/// The target as a configuration file.
fn config_text(report: &Report, array: &ArrayReport, options: &Options) -> Result<String, String> {
    let superblock = &array.superblock;
    let name = short_name(superblock);
    let uuid = Uuid::from_bytes(superblock.set_uuid).simple().to_string();
    // Another tool may have given it a name that mdof has no use for.
    let is_usable = names::check_array_name(&name).is_ok()
        && !name.starts_with("member")
        && !name.starts_with("missing");
    let name = if is_usable { name } else { format!("md-{}", &uuid[..8]) };
    let nqn = options.nqn.clone().unwrap_or_else(|| format!("nqn.2026-01.io.mdof:{name}"));
    names::check_nqn(&nqn)?;
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let mut text = String::new();
    let mut members = Vec::with_capacity(report.probes.len());
    for (index, probe) in report.probes.iter().enumerate() {
        let path = absolute(&probe.path)?;
        text += &format!("[[bdev]]\nname = \"member{index}\"\nkind = \"uring\"\n");
        text += &format!("path = {}\n", quoted(&path));
        if superblock.logical_block_size != 0 {
            text += &format!("block_size_bytes = {}\n", superblock.logical_block_size);
        }
        text.push('\n');
        members.push(format!("\"member{index}\""));
    }
    // An array has all its members in its configuration, those that are missing as well.
    for slot in &array.missing_slots {
        text += &format!("# Missing: the path of the member of slot {slot} belongs here.\n");
        text += &format!("[[bdev]]\nname = \"missing{slot}\"\nkind = \"uring\"\n");
        text += &format!("path = \"missing-slot-{slot}\"\n\n");
        members.push(format!("\"missing{slot}\""));
    }
    let (name, nqn) = (quoted(&name), quoted(&nqn));
    let level = superblock.level.name();
    let members = members.join(", ");
    text += &format!("[[array]]\nname = {name}\nlevel = \"{level}\"\nmembers = [{members}]\n");
    if let Some(path) = &options.bitmap_file {
        text += &format!("bitmap_file = {}\n", quoted(absolute(path)?.as_str()));
    }
    if let Some(policy) = options.start_degraded {
        text += &format!("start_degraded = \"{policy}\"\n");
    }
    text += &format!(
        "\n[[subsystem]]\nnqn = {nqn}\nallow_any_host = true\n\
         namespaces = [{{ bdev = {name}, nsid = 1 }}]\nlisten = [\"{}\"]\n",
        options.listen
    );
    Ok(text)
}
