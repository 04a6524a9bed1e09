//! The results of a run, as text and as JSON.

use std::fmt::{self, Write};
use std::time::Duration;

use super::cpu;
use super::load::LoadError;
use super::plan::{Connecting, Pace, Plan};
use super::schedule::Behind;
use super::tally::{Errors, Latency, Tally};
use dht::time::Time;

/// A core that was busy for more than this part of the time is a bottleneck.
const BUSY: f64 = 0.95;

/// The plan of a run and its results.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    plan: Plan,
    /// Number of different keys.
    keys: usize,
    spent: Spent,
    /// Number of right answers.
    pub(crate) answers: u64,
    /// The failures.
    pub(crate) errors: Errors,
    /// Latency of right answers.
    latency: Latency,
    /// Number of bytes read.
    bytes_in: u64,
    /// Number of bytes written.
    bytes_out: u64,
    /// Open loop: how far the run fell behind its schedule.
    behind: Option<Behind>,
}

/// The measured part of a run: when it started, and the CPU times at the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measurement {
    pub(crate) begun: Time,
    server: Duration,
    generator: Duration,
}

/// The duration and the CPU times of a measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    took: Duration,
    /// CPU time of the server processes, if the command line names them.
    server: Option<Duration>,
    /// CPU time of the generator.
    generator: Duration,
}

impl Measurement {
    pub(crate) fn begin(pids: &[u32], now: Time) -> Result<Self, LoadError> {
        Ok(Self { begun: now, server: cpu::used(pids)?, generator: cpu::used(&[std::process::id()])? })
    }

    pub(crate) fn end(&self, pids: &[u32], now: Time) -> Result<Spent, LoadError> {
        let generator = cpu::used(&[std::process::id()])?.saturating_sub(self.generator);
        let server = cpu::used(pids)?.saturating_sub(self.server);
        Ok(Spent { took: now - self.begun, server: (!pids.is_empty()).then_some(server), generator })
    }
}

impl Report {
    pub(crate) fn new(plan: &Plan, keys: usize, tally: &mut Tally, spent: Spent, behind: Option<Behind>) -> Self {
        Self {
            plan: plan.clone(),
            keys,
            spent,
            answers: tally.answers(),
            errors: tally.errors,
            latency: tally.latency(),
            bytes_in: tally.bytes_in,
            bytes_out: tally.bytes_out,
            behind,
        }
    }

    /// Right answers per second.
    pub(crate) fn answers_per_second(&self) -> f64 {
        per_second(self.answers, self.spent.took)
    }

    /// A warning if the generator was the bottleneck. An open loop spins while it waits, so its CPU time
    /// does not show that.
    pub(crate) fn warning(&self) -> Option<Warning> {
        let share = |cpu: Duration| cpu.as_secs_f64() / self.spent.took.as_secs_f64().max(f64::MIN_POSITIVE);
        let (own, server) = (share(self.spent.generator), share(self.spent.server?));
        let is_bottleneck = self.plan.pace == Pace::Closed && own > BUSY && server <= BUSY;
        is_bottleneck.then_some(Warning { own, server })
    }

    /// CPU time per right answer, in nanoseconds; `None` without answers.
    fn per_answer(&self, cpu: Duration) -> Option<f64> {
        (self.answers > 0).then(|| cpu.as_secs_f64() * 1e9 / real(self.answers))
    }

    /// One line of JSON; `load.rs` describes the names.
    pub(crate) fn to_json(&self) -> String {
        let mut object = Object::new();
        object.text("op", self.plan.operation).text("protocol", self.plan.protocol);
        object.number("connections", self.plan.connections).number("pipeline", self.plan.pipeline);
        object.number("value_bytes", self.plan.value_size).number("keys", self.keys);
        object.number("put_percent", self.plan.operation.put_percent());
        object.number("connect_each", self.plan.connecting == Connecting::Each);
        match self.plan.pace {
            Pace::Closed => object.decimal("rate", None),
            Pace::Open { rate } => object.number("rate", rate),
        };
        object.decimal("seconds", Some(self.spent.took.as_secs_f64()));
        object.number("answers", self.answers).number("failures", self.errors.total());
        object.decimal("answers_per_second", Some(self.answers_per_second()));
        let mut latency = Object::new();
        for (name, value) in self.latency.named() {
            latency.decimal(name, Some(micros(value)));
        }
        object.object("latency_us", latency);
        object.number("bytes_in", self.bytes_in).number("bytes_out", self.bytes_out);
        object.decimal("server_cpu_seconds", self.spent.server.map(|cpu| cpu.as_secs_f64()));
        object.decimal("server_cpu_ns_per_answer", self.spent.server.and_then(|cpu| self.per_answer(cpu)));
        object.decimal("generator_cpu_seconds", Some(self.spent.generator.as_secs_f64()));
        object.decimal("generator_cpu_ns_per_answer", self.per_answer(self.spent.generator));
        match self.behind {
            Some(Behind { requests_max, wait_max, at_end }) => {
                let mut behind = Object::new();
                behind.number("requests_max", requests_max).decimal("wait_max_us", Some(micros(wait_max)));
                behind.number("at_end", at_end);
                object.object("behind", behind)
            }
            None => object.decimal("behind", None),
        };
        let mut errors = Object::new();
        for (name, count) in self.errors.named() {
            errors.number(name, count);
        }
        object.object("errors", errors);
        object.end()
    }
}

impl Latency {
    fn named(&self) -> [(&'static str, Duration); 5] {
        [("p50", self.p50), ("p90", self.p90), ("p99", self.p99), ("p99_9", self.p99_9), ("max", self.max)]
    }
}

fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

/// The rate of `count` events within `span`, per second.
pub(crate) fn per_second(count: u64, span: Duration) -> f64 {
    real(count) / span.as_secs_f64().max(f64::MIN_POSITIVE)
}

#[expect(clippy::cast_precision_loss, reason = "no run counts up to 2^53")]
fn real(count: u64) -> f64 {
    count as f64
}

/// The report as text.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { operation, protocol, connections, pipeline, value_size, .. } = self.plan;
        let (seconds, failures) = (self.spent.took.as_secs_f64(), self.errors.total());
        write!(f, "{operation} {protocol}  {connections} connections × {pipeline}")?;
        if self.plan.connecting == Connecting::Each {
            write!(f, ", a connection each")?;
        }
        writeln!(f, ", values of {value_size} bytes, {} keys, {seconds:.2} s", self.keys)?;
        writeln!(f, "answers    {} = {:.0}/s, {failures} failures", self.answers, self.answers_per_second())?;
        write!(f, "latency µs")?;
        for (name, value) in self.latency.named() {
            write!(f, "  {} {:.1}", name.replace('_', "."), micros(value))?;
        }
        writeln!(f, "\nbytes      {} in, {} out", self.bytes_in, self.bytes_out)?;
        write!(f, "CPU        generator {:.0} ns an answer", self.per_answer(self.spent.generator).unwrap_or(0.0))?;
        if let Some(cpu) = self.spent.server {
            let (each, all) = (self.per_answer(cpu).unwrap_or(0.0), cpu.as_secs_f64());
            write!(f, ", server {each:.0} ns an answer, {all:.3} s")?;
        }
        if let Some(Behind { requests_max, wait_max, at_end }) = self.behind {
            let wait = micros(wait_max);
            write!(f, "\nbehind     at most {requests_max} requests waited, {wait:.1} µs; {at_end} at the end")?;
        }
        for (name, count) in self.errors.named().into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "\n{name:<10} {count}")?;
        }
        Ok(())
    }
}

/// The generator was the bottleneck, so the rate is its own and not the server's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Warning {
    own: f64,
    server: f64,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (own, server) = (self.own * 100.0, self.server * 100.0);
        write!(f, "the generator was the bottleneck: its core was busy for {own:.0} % of the time, ")?;
        write!(f, "the server's core for {server:.0} %")
    }
}

/// Writes a JSON object. All names and texts come from this program and need no escapes.
struct Object {
    text: String,
}

impl Object {
    fn new() -> Self {
        Self { text: "{".to_owned() }
    }

    fn member(&mut self, name: &str, value: fmt::Arguments<'_>) -> &mut Self {
        let comma = if self.text.len() > 1 { ", " } else { "" };
        write!(self.text, "{comma}\"{name}\": {value}").expect("a String accepts all text");
        self
    }

    fn text(&mut self, name: &str, value: impl fmt::Display) -> &mut Self {
        self.member(name, format_args!("\"{value}\""))
    }

    fn number(&mut self, name: &str, value: impl fmt::Display) -> &mut Self {
        self.member(name, format_args!("{value}"))
    }

    /// Three decimals; `null` for `None`, infinity and NaN.
    fn decimal(&mut self, name: &str, value: Option<f64>) -> &mut Self {
        match value.filter(|value| value.is_finite()) {
            Some(value) => self.member(name, format_args!("{value:.3}")),
            None => self.member(name, format_args!("null")),
        }
    }

    fn object(&mut self, name: &str, value: Object) -> &mut Self {
        self.member(name, format_args!("{}", value.end()))
    }

    fn end(self) -> String {
        self.text + "}"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, read_args};

    fn report() -> Report {
        let line = "mix --mix 10 -c 50 -p 16 --value 64".split_whitespace();
        let Ok(Command::Measure(measurement)) = read_args(line.map(Into::into)) else { panic!("a measurement") };
        Report {
            plan: measurement.plan,
            keys: 10_000,
            spent: Spent { took: Duration::from_secs(2), server: None, generator: Duration::from_micros(500) },
            answers: 1000,
            errors: Errors { failure: 2, timeout: 1, ..Errors::default() },
            latency: Latency { p50: Duration::from_nanos(1500), ..Latency::default() },
            bytes_in: 100_000,
            bytes_out: 36_000,
            behind: None,
        }
    }

    #[test]
    fn a_report_is_one_json_object_with_names_that_stay() {
        let expected = "{\"op\": \"mix\", \"protocol\": \"dht\", \"connections\": 50, \"pipeline\": 16, \
            \"value_bytes\": 64, \"keys\": 10000, \"put_percent\": 10, \"connect_each\": false, \"rate\": null, \
            \"seconds\": 2.000, \"answers\": 1000, \"failures\": 3, \"answers_per_second\": 500.000, \
            \"latency_us\": {\"p50\": 1.500, \"p90\": 0.000, \"p99\": 0.000, \"p99_9\": 0.000, \"max\": 0.000}, \
            \"bytes_in\": 100000, \"bytes_out\": 36000, \
            \"server_cpu_seconds\": null, \"server_cpu_ns_per_answer\": null, \
            \"generator_cpu_seconds\": 0.001, \"generator_cpu_ns_per_answer\": 500.000, \"behind\": null, \
            \"errors\": {\"failure\": 2, \"wrong_key\": 0, \"wrong_value\": 0, \"senseless\": 0, \"closed\": 0, \
            \"connect\": 0, \"timeout\": 1, \"unsent\": 0}}";
        assert_eq!(report().to_json(), expected);
    }

    #[test]
    fn the_json_includes_rate_server_cpu_and_behind() {
        let behind = Behind { requests_max: 7, wait_max: Duration::from_micros(8), at_end: 1 };
        let mut report = Report { behind: Some(behind), ..report() };
        report.plan.pace = Pace::Open { rate: 100 };
        report.spent.server = Some(Duration::from_secs(1));
        let json = report.to_json();
        for part in [
            "\"rate\": 100,",
            "\"server_cpu_seconds\": 1.000, \"server_cpu_ns_per_answer\": 1000000.000",
            "\"behind\": {\"requests_max\": 7, \"wait_max_us\": 8.000, \"at_end\": 1}",
        ] {
            assert!(json.contains(part), "{part} in {json}");
        }
    }

    #[test]
    fn a_run_without_an_answer_has_no_figures_per_answer() {
        let mut report = Report { answers: 0, ..report() };
        report.spent.server = Some(Duration::ZERO);
        assert!(report.to_json().contains("\"server_cpu_ns_per_answer\": null"));
        assert!(report.to_json().contains("\"generator_cpu_ns_per_answer\": null"));
    }

    #[test]
    fn the_text_has_the_same_figures() {
        let shown = report().to_string();
        for part in ["mix dht  50 connections × 16", "1000 = 500/s, 3 failures", "p50 1.5", "p99.9 0.0", "timeout    1"]
        {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }

    #[test]
    fn a_generator_that_is_the_bottleneck_warns() {
        let seconds = Duration::from_secs_f64;
        let busy = |server: Option<f64>| {
            let spent = Spent { took: seconds(2.0), server: server.map(seconds), generator: seconds(1.96) };
            Report { spent, ..report() }
        };
        assert_eq!(report().warning(), None);
        assert_eq!(busy(Some(1.98)).warning(), None, "both cores are busy");
        let warning = busy(Some(1.0)).warning().expect("the server was not").to_string();
        assert!(warning.contains("98 %") && warning.contains("50 %"), "{warning}");
        assert_eq!(busy(None).warning(), None, "the server's CPU time is unknown");
        let mut open = busy(Some(1.0));
        open.plan.pace = Pace::Open { rate: 1 };
        assert_eq!(open.warning(), None, "an open loop spins");
    }
}
