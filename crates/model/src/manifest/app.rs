//! Services, jobs and outside parts.

use std::{collections::BTreeMap, time::Duration};

use super::{
    node::{Node, Value},
    read::Reader,
};
use crate::{
    cron::Cron,
    diagnostic::{Code, Diagnostic},
    id::{Kind, ResourceId},
    resource::{
        Days, External, Hours, Job, Limits, Migrate, Mount, Program, Rollout, Scale, ScaleMetric, ScaleRule, Schedule,
        Service, Source, StandIn, Unresolved, Watch, When,
    },
    system::Size,
    unit,
};

const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn service(r: &Reader<'_>, id: &ResourceId, node: &Node, sizes: &BTreeMap<String, Size>) -> Option<Service> {
    let program = program(r, id, node);
    let size = r.size(node);
    let mut limits = limits(r, node);
    if let Some(size) = size.as_ref().and_then(|name| sizes.get(name)) {
        limits.memory = limits.memory.or(size.memory);
        limits.cpu_millis = limits.cpu_millis.or(size.cpu_millis);
    }
    let port = r.port(node, "port");
    if let Some(health) = node.entry("health")
        && node.get("port").is_none()
    {
        let fault =
            Diagnostic::new(Code::S0118, health.key_span.clone(), format!("`{id}` has a health path and no port"));
        r.fault(fault.hint("add `port`, the port it listens on"));
    }
    let service = Service {
        port,
        health: r.raw(node, "health"),
        subnet: r.subnet(node),
        size,
        needs: r.resources(node, "needs"),
        scale: scale(r, node),
        env: r.env(node),
        migrate: node.get("migrate").map(|m| migrate(r, m)),
        limits,
        start_within: r.duration(node, "start_within").unwrap_or(MINUTE),
        stop_grace: r.duration(node, "stop_grace").unwrap_or(MINUTE / 2),
        unresolved: unresolved(r, node),
        mounts: mounts(r, node),
        rollout: node.get("rollout").and_then(|rollout| self::rollout(r, rollout)),
        slots: r.names(node, "slots"),
        hours: node.get("hours").and_then(|hours| self::hours(r, hours)),
        program: program?,
    };
    Some(service)
}

pub(crate) fn job(r: &Reader<'_>, id: &ResourceId, node: &Node) -> Option<Job> {
    let program = program(r, id, node);
    let schedule = match (node.entry("every"), node.entry("cron")) {
        (Some(_), None) => r.duration(node, "every").map(Schedule::Every),
        (None, Some(cron)) => r.formed(&cron.node, "times", times).map(Schedule::Cron),
        (every, cron) => {
            let span = every.or(cron).map_or_else(|| r.span_of(id), |entry| entry.key_span.clone());
            let message = if every.is_some() { "has both `every` and `cron`" } else { "says not when it runs" };
            let fault = Diagnostic::new(Code::S0118, span, format!("`{id}` {message}"));
            r.fault(fault.hint("write one of them: `every = \"5m\"`, or `cron = \"0 2 * * *\"`"));
            None
        }
    };
    Some(Job {
        subnet: r.subnet(node),
        needs: r.resources(node, "needs"),
        env: r.env(node),
        limits: limits(r, node),
        mounts: mounts(r, node),
        timeout: r.duration(node, "timeout").unwrap_or(60 * MINUTE),
        unresolved: unresolved(r, node),
        program: program?,
        schedule: schedule?,
    })
}

pub(crate) fn external(r: &Reader<'_>, node: &Node) -> Option<External> {
    let url = node.get("url").and_then(|url| {
        r.formed(url, "the address of an outside part", |text| {
            let scheme = text.split_once("://").map(|(scheme, rest)| (scheme, rest.is_empty()));
            match scheme {
                _ if text.contains('@') => Err("leave user and password out: they are secrets of a vault".to_owned()),
                Some(("https" | "http" | "ldaps" | "ldap" | "smtps" | "smtp" | "mllps" | "mllp", false)) => {
                    Ok(text.to_owned())
                }
                _ => Err("write a URL, such as `https://api.example.com`".to_owned()),
            }
        })
    });
    let stand_in = node
        .get("stand_in")
        .and_then(|stand_in| Some(StandIn { run: argv(r, stand_in, "run")?, port: r.port(stand_in, "port")? }));
    Some(External { url: url?, region: r.raw(node, "region"), stand_in })
}

fn program(r: &Reader<'_>, id: &ResourceId, node: &Node) -> Option<Program> {
    let source = match (node.entry("run"), node.entry("image")) {
        (Some(_), None) => {
            if let Some(args) = node.entry("args") {
                let fault =
                    Diagnostic::new(Code::S0118, args.key_span.clone(), format!("`{id}` has `args` and no image"));
                r.fault(fault.hint("arguments of a program stand in `run`, after it"));
            }
            argv(r, node, "run").map(Source::Run)
        }
        (None, Some(entry)) => r.text(node, "image").map(|image| {
            let source = Source::Image { image, args: r.texts(node, "args") };
            if let Some(registry) = source.registry().filter(|registry| !r.known.contains(registry)) {
                r.unknown_resource(&registry, entry.node.span.clone());
            }
            source
        }),
        (run, image) => {
            let span = image.or(run).map_or_else(|| r.span_of(id), |entry| entry.key_span.clone());
            let what = if run.is_some() { "has both `run` and `image`" } else { "says not what to run" };
            let fault = Diagnostic::new(Code::S0118, span, format!("`{id}` {what}"));
            r.fault(fault.hint(
                "write one of them: `run = [\"program\", \"argument\"]`, or `image = \"registry.main/name:tag\"`",
            ));
            None
        }
    };
    Some(Program { source: source?, directory: r.text(node, "directory") })
}

/// A program and its arguments; at least the program.
fn argv(r: &Reader<'_>, node: &Node, key: &str) -> Option<Vec<String>> {
    command(r, node.get(key)?, key)
}

fn command(r: &Reader<'_>, list: &Node, key: &str) -> Option<Vec<String>> {
    let Value::List(items) = &list.value else { return None };
    if items.first().and_then(Node::as_text).is_none_or(str::is_empty) && items.iter().all(|i| i.as_text().is_some()) {
        let fault = Diagnostic::new(Code::S0105, list.span.clone(), format!("`{key}` names no program"));
        r.fault(fault.hint("write the program first, then its arguments: `[\"program\", \"argument\"]`"));
        return None;
    }
    let words: Vec<String> = items.iter().filter_map(|item| r.filled(item)).collect();
    if words.iter().any(|word| word.contains('\0')) {
        r.fault(Diagnostic::new(Code::S0105, list.span.clone(), format!("an argument in `{key}` has a NUL character")));
        return None;
    }
    (words.len() == items.len()).then_some(words)
}

fn migrate(r: &Reader<'_>, node: &Node) -> Migrate {
    let (run, when) = match &node.value {
        Value::List(_) => (command(r, node, "migrate"), None),
        _ => (argv(r, node, "run"), r.word(node, "when", &[("before", When::Before), ("after", When::After)])),
    };
    Migrate {
        run: run.unwrap_or_default(),
        env: r.env(node),
        when: when.unwrap_or_default(),
        timeout: r.duration(node, "timeout").unwrap_or(10 * MINUTE),
    }
}

fn unresolved(r: &Reader<'_>, node: &Node) -> Unresolved {
    r.word(node, "unresolved", &[("fail", Unresolved::Fail), ("text", Unresolved::Text)]).unwrap_or_default()
}

pub(crate) fn limits(r: &Reader<'_>, node: &Node) -> Limits {
    let Some(node) = node.get("limits") else { return Limits::default() };
    Limits { memory: r.bytes(node, "memory"), cpu_millis: r.cpu_millis(node, "cpu"), pids: r.integer(node, "pids") }
}

fn mounts(r: &Reader<'_>, node: &Node) -> Vec<Mount> {
    let mounts = node.get("mounts").map_or(&[][..], Node::items).iter();
    mounts
        .filter_map(|mount| {
            let share = r.resource_at(mount, "share")?;
            if share.kind != Kind::Share {
                let fault = Diagnostic::new(Code::S0109, mount.span.clone(), format!("`{share}` is not a share"));
                r.fault(fault.hint("declare `[share.NAME]` and mount that"));
                return None;
            }
            Some(Mount { share, path: r.raw(mount, "path")?, write: r.flag(mount, "write").unwrap_or(false) })
        })
        .collect()
}

fn hours(r: &Reader<'_>, node: &Node) -> Option<Hours> {
    let time = |key| {
        r.formed(node.get(key)?, "a time of day", |text| {
            let wrong = || "write hours and minutes, such as \"07:30\"".to_owned();
            let (hours, minutes) =
                text.split_once(':').filter(|(h, m)| h.len() == 2 && m.len() == 2).ok_or_else(wrong)?;
            match (hours.parse::<u16>(), minutes.parse::<u16>()) {
                (Ok(h @ 0..24), Ok(m @ 0..60)) => Ok(h * 60 + m),
                (Ok(24), Ok(0)) => Ok(24 * 60),
                _ => Err(wrong()),
            }
        })
    };
    let (from, to) = (time("from"), time("to"));
    let days = r.word(node, "days", &[("every", Days::Every), ("mon-fri", Days::MonFri)]).unwrap_or_default();
    let zone = r.raw(node, "zone").unwrap_or_else(|| "UTC".into());
    let (from, to) = (from?, to?);
    if from >= to {
        let fault = Diagnostic::new(Code::S0117, node.span.clone(), "the hours end before they begin");
        r.fault(fault.hint("`from` comes before `to`, both on one day; \"24:00\" is the end of the day"));
        return None;
    }
    Some(Hours { from, to, days, zone })
}

fn scale(r: &Reader<'_>, node: &Node) -> Scale {
    let Some(node) = node.get("scale") else {
        return Scale { min: 1, max: 1, out: Vec::new(), r#in: Vec::new() };
    };
    let min = r.integer(node, "min").unwrap_or(1);
    let max = r.integer(node, "max").unwrap_or(min.max(1));
    if max < min {
        let span = node.get("max").map_or(node.span.clone(), |max| max.span.clone());
        r.fault(Diagnostic::new(Code::S0117, span, format!("`scale` has at most {max} copies and at least {min}")));
    }
    let rules = |key: &str| -> Vec<ScaleRule> {
        let items = node.get(key).map_or(&[][..], Node::items).iter();
        items.filter_map(|item| r.formed(item, "a rule of scaling", scale_rule)).collect()
    };
    Scale { min, max, out: rules("out"), r#in: rules("in") }
}

fn rollout(r: &Reader<'_>, node: &Node) -> Option<Rollout> {
    let list = node.get("steps")?;
    let steps = list
        .items()
        .iter()
        .filter_map(|item| if let Value::Integer(n) = item.value { u32::try_from(n).ok() } else { None });
    let steps: Vec<u32> = steps.collect();
    if steps.last() != Some(&100) || !steps.is_sorted_by(|a, b| a < b) {
        let fault = Diagnostic::new(Code::S0117, list.span.clone(), "the steps of `rollout` do not rise to 100");
        r.fault(fault.hint("such as `steps = [10, 25, 50, 100]`"));
    }
    let abort = node.get("abort").map_or(&[][..], Node::items).iter();
    Some(Rollout { steps, abort: abort.filter_map(|item| r.formed(item, "a rule", watch)).collect() })
}

/// `METRIC > NUMBER[UNIT] [for WINDOW]` over anything that is measured.
pub(crate) fn watch(text: &str) -> Result<Watch, String> {
    let form = || "write a rule such as `p95 > 200ms for 5m`, `errors > 1%` or `budget > 90%`".to_owned();
    let (rule, window) = match text.split_once(" for ") {
        Some((rule, window)) => (rule, unit::duration(window.trim())?),
        None => (text, 5 * MINUTE),
    };
    let (metric, over, number) = match (rule.split_once('>'), rule.split_once('<')) {
        (Some((metric, number)), None) => (metric.trim(), true, number.trim()),
        (None, Some((metric, number))) => (metric.trim(), false, number.trim()),
        _ => return Err(form()),
    };
    let digits = number.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (digits, unit) = number.split_at(digits);
    let threshold = digits.parse::<f64>().ok().filter(|_| crate::is_name(metric)).ok_or_else(form)?;
    if !["%", "ms", "s", "/s", "/m", ""].contains(&unit) {
        return Err(format!("`{unit}` is not a unit here; %, ms, s, /s, /m are, or none for a count"));
    }
    Ok(Watch { metric: metric.to_owned(), over, threshold, unit: unit.to_owned(), window })
}

/// `METRIC > NUMBER[UNIT] [for WINDOW]`.
fn scale_rule(text: &str) -> Result<ScaleRule, String> {
    let form = || "write a rule such as `cpu > 70% for 5m`, `requests > 500/s`, or `queue > 100`".to_owned();
    let (rule, window) = match text.split_once(" for ") {
        Some((rule, window)) => (rule, unit::duration(window.trim())?),
        None => (text, 5 * MINUTE),
    };
    let (metric, over, number) = match (rule.split_once('>'), rule.split_once('<')) {
        (Some((metric, number)), None) => (metric.trim(), true, number.trim()),
        (None, Some((metric, number))) => (metric.trim(), false, number.trim()),
        _ => return Err(form()),
    };
    let (metric, unit) = match metric {
        "cpu" => (ScaleMetric::Cpu, "%"),
        "memory" => (ScaleMetric::Memory, "%"),
        "requests" => (ScaleMetric::Requests, "/s"),
        "queue" => (ScaleMetric::Queue, ""),
        _ => return Err(format!("`{metric}` is not measured; cpu, memory, requests and queue are")),
    };
    let digits =
        number.strip_suffix(unit).ok_or_else(|| format!("the unit of `{}` is `{unit}`", metric_word(metric)))?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let threshold = digits.parse::<f64>().ok().filter(|t| plain && t.is_finite()).ok_or_else(form)?;
    Ok(ScaleRule { metric, over, threshold, window })
}

/// Five fields of cron, as they are kept.
fn times(text: &str) -> Result<String, String> {
    Cron::parse(text)?;
    Ok(text.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
}

fn metric_word(metric: ScaleMetric) -> &'static str {
    match metric {
        ScaleMetric::Cpu => "cpu",
        ScaleMetric::Memory => "memory",
        ScaleMetric::Requests => "requests",
        ScaleMetric::Queue => "queue",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_scaling_are_read() {
        let rule = scale_rule("cpu > 70% for 5m").unwrap();
        assert_eq!((rule.metric, rule.over, rule.threshold, rule.window), (ScaleMetric::Cpu, true, 70.0, 5 * MINUTE));
        assert_eq!(scale_rule("requests > 500/s").unwrap().threshold, 500.0);
        assert!(!scale_rule("queue < 10 for 30s").unwrap().over);
        for text in
            ["", "cpu", "cpu > 70", "cpu > x% for 5m", "cpu > 70% for 5", "load > 3", "cpu > inf%", "cpu > 1 < 2"]
        {
            assert!(scale_rule(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rules_over_telemetry_are_read() {
        let rule = watch("p95 > 200ms for 10m").unwrap();
        assert_eq!(
            (&*rule.metric, rule.over, rule.threshold, &*rule.unit, rule.window),
            ("p95", true, 200.0, "ms", 10 * MINUTE)
        );
        assert_eq!(watch("uptime < 99.95%").unwrap().threshold, 99.95);
        for text in ["", "p95", "> 5", "p95 > ", "p95 > 5 apples", "p95 > 1.2.3%", "p95 > 5% for ever"] {
            assert!(watch(text).is_err(), "{text}");
        }
    }
}
