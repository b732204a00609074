//! Everything that one run has found out: what the table, the JSON and the report are made of.

use std::time::Duration;

use serde::Serialize;

use super::{
    arguments::Arguments,
    machine::Machine,
    rounds::Turn,
    samples::{Sample, Samples},
    statistics::{Summary, percentile},
};
use crate::model::Timestamp;

#[derive(Serialize)]
pub struct Study {
    /// Of this JSON.
    pub version: u32,
    /// When it began.
    pub date: String,
    pub command: Vec<String>,
    pub machine: Machine,
    pub options: Options,
    pub image: Image,
    pub endpoints: Vec<Runtime>,
    pub measurements: Vec<Measurement>,
    /// What a reader must know beside the figures.
    pub notes: Vec<String>,
}

#[derive(Serialize)]
pub struct Options {
    pub rounds: usize,
    pub warm_up: usize,
    pub pause_ms: u64,
    pub wait_idle_ms: u64,
    pub concurrency: usize,
    pub pods: usize,
}

#[derive(Serialize)]
pub struct Image {
    pub name: String,
    pub id: String,
}

/// A runtime as it names itself.
#[derive(Debug, Clone, Serialize)]
pub struct Runtime {
    /// What the command line calls the endpoint.
    pub endpoint: String,
    pub socket: String,
    pub handler: String,
    pub name: String,
    pub version: String,
}

/// Something measured, at each endpoint that has it.
#[derive(Debug, Clone, Serialize)]
pub struct Measurement {
    #[serde(flatten)]
    pub what: What,
    pub rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct What {
    pub subject: &'static str,
    /// Under which circumstances, as "host network".
    pub setting: String,
    pub name: String,
    pub unit: Unit,
    /// The measurement of the same subject and setting that this is a part of: a stage of a call, a process of a pod.
    pub part_of: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Unit {
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "1/s")]
    PerSecond,
    #[serde(rename = "MiB")]
    Mebibytes,
    #[serde(rename = "")]
    Count,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::Milliseconds => "ms",
            Unit::PerSecond => "1/s",
            Unit::Mebibytes => "MiB",
            Unit::Count => "",
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub endpoint: String,
    pub summary: Summary,
    #[serde(flatten)]
    pub samples: Samples,
}

impl Study {
    /// Without results yet.
    pub fn new(arguments: &Arguments) -> Self {
        Self {
            version: 1,
            date: Timestamp::now().rfc3339(),
            command: std::env::args().collect(),
            machine: Machine::this(),
            options: Options {
                rounds: arguments.rounds.get(),
                warm_up: arguments.warm_up,
                pause_ms: arguments.pause_ms,
                wait_idle_ms: arguments.wait_idle_ms,
                concurrency: arguments.concurrency.get(),
                pods: arguments.pods.get(),
            },
            image: Image {
                name: arguments.image.clone(),
                id: String::new(),
            },
            endpoints: Vec::new(),
            measurements: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Keeps what a turn of `endpoint` measured, when the turn counts.
    pub fn keep(&mut self, turn: Turn, endpoint: &str, sheet: Sheet) {
        for (what, sample) in sheet.entries.into_iter().filter(|_| turn.counted) {
            self.row(what, endpoint).samples.push(sample);
        }
    }

    /// Said once, however often it is noticed.
    pub fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn row(&mut self, what: What, endpoint: &str) -> &mut Row {
        let at = self.measurements.iter().position(|known| known.what == what);
        let at = at.unwrap_or_else(|| {
            self.measurements.push(Measurement { what, rows: Vec::new() });
            self.measurements.len() - 1
        });
        let rows = &mut self.measurements[at].rows;
        let at = rows.iter().position(|row| row.endpoint == endpoint).unwrap_or_else(|| {
            rows.push(Row {
                endpoint: endpoint.to_owned(),
                summary: Summary::of(&[], None),
                samples: Samples::default(),
            });
            rows.len() - 1
        });
        &mut rows[at]
    }

    /// Puts the endpoints in their order everywhere and says what the values say.
    pub fn sum_up(&mut self) {
        let order: Vec<_> = self.endpoints.iter().map(|runtime| runtime.endpoint.clone()).collect();
        let place = |row: &Row| order.iter().position(|name| *name == row.endpoint);
        for measurement in &mut self.measurements {
            measurement.rows.sort_by_key(place);
            let first = measurement.rows.first().filter(|row| place(row) == Some(0));
            let first = first.map(|row| row.samples.values().to_vec());
            for row in &mut measurement.rows {
                let compared = first.as_deref().filter(|_| place(row) != Some(0));
                row.summary = Summary::of(row.samples.values(), compared);
            }
        }
    }

    /// The subjects with their settings, in the order they were measured.
    pub fn groups(&self) -> Vec<Group<'_>> {
        let mut groups = Vec::<Group<'_>>::new();
        for measurement in &self.measurements {
            let (subject, setting) = (measurement.what.subject, measurement.what.setting.as_str());
            match groups
                .iter_mut()
                .find(|group| (group.subject, group.setting) == (subject, setting))
            {
                Some(group) => group.measurements.push(measurement),
                None => groups.push(Group {
                    subject,
                    setting,
                    measurements: vec![measurement],
                }),
            }
        }
        groups
    }

    /// How busy the machine was before the measured steps, each measured value with its own: p50 and p90, in percent. `None`
    /// when nobody looked.
    pub fn busy_percent(&self) -> Option<(f64, f64)> {
        let rows = self.measurements.iter().flat_map(|measurement| &measurement.rows);
        let mut busy: Vec<f64> = rows
            .flat_map(|row| row.samples.busy())
            .map(|share| share * 100.0)
            .collect();
        busy.sort_by(f64::total_cmp);
        (!busy.is_empty()).then(|| (percentile(&busy, 50.0), percentile(&busy, 90.0)))
    }
}

/// The measurements of one subject in one setting.
pub struct Group<'a> {
    pub subject: &'static str,
    pub setting: &'a str,
    measurements: Vec<&'a Measurement>,
}

impl<'a> Group<'a> {
    pub fn title(&self) -> String {
        match self.setting {
            "" => self.subject.to_owned(),
            setting => format!("{}, {setting}", self.subject),
        }
    }

    /// What is no part of another.
    pub fn wholes(&self) -> impl Iterator<Item = &'a Measurement> {
        self.measurements
            .iter()
            .copied()
            .filter(|measurement| measurement.what.part_of.is_none())
    }

    pub fn whole(&self, name: &str) -> Option<&'a Measurement> {
        self.wholes().find(|measurement| measurement.what.name == name)
    }

    pub fn parts(&self, whole: &str) -> impl Iterator<Item = &'a Measurement> {
        let is_part = move |measurement: &&Measurement| measurement.what.part_of.as_deref() == Some(whole);
        self.measurements.iter().copied().filter(is_part)
    }
}

impl Measurement {
    pub fn row(&self, endpoint: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.endpoint == endpoint)
    }
}

/// What one turn measured.
pub struct Sheet {
    subject: &'static str,
    setting: String,
    busy: Option<f64>,
    entries: Vec<(What, Sample)>,
}

impl Sheet {
    pub fn new(subject: &'static str, setting: impl ToString) -> Self {
        Self {
            subject,
            setting: setting.to_string(),
            busy: None,
            entries: Vec::new(),
        }
    }

    /// The machine was so busy before what is noted from now on.
    pub fn rested(&mut self, busy: Option<f64>) {
        self.busy = busy;
    }

    pub fn time(&mut self, name: &str, time: Duration) {
        self.value(name, Unit::Milliseconds, milliseconds(time));
    }

    pub fn value(&mut self, name: &str, unit: Unit, value: f64) {
        self.add(name, unit, value, None);
    }

    /// A part of the measurement `whole`.
    pub fn part(&mut self, whole: &str, name: &str, unit: Unit, value: f64) {
        self.add(name, unit, value, Some(whole.to_owned()));
    }

    fn add(&mut self, name: &str, unit: Unit, value: f64, part_of: Option<String>) {
        let what = What {
            subject: self.subject,
            setting: self.setting.clone(),
            name: name.to_owned(),
            unit,
            part_of,
        };
        let busy = self.busy;
        self.entries.push((what, Sample { value, busy }));
    }
}

/// To the microsecond: what is below is noise, and only makes files long.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
