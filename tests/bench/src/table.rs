//! Figures by name and side, printed as one table with medians, spread and ratios.

use std::collections::BTreeMap;

/// What was measured, round by round.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
    values: BTreeMap<(String, &'static str), Vec<f64>>,
}

struct Row {
    name: String,
    required: Required,
}

/// What a figure of the gateway must keep to.
#[derive(Clone, Copy)]
pub enum Required {
    /// At most this many times nginx's.
    Ratio(f64),
    /// At most this much more than nginx's.
    Above(f64),
    /// At most this.
    AtMost(f64),
    /// Only shown.
    Shown,
}

impl Table {
    /// Adds one round's figure.
    pub fn add(&mut self, name: &str, side: &'static str, value: f64, required: Required) {
        if !self.rows.iter().any(|row| row.name == name) {
            self.rows.push(Row { name: name.to_owned(), required });
        }
        self.values.entry((name.to_owned(), side)).or_default().push(value);
    }

    /// Prints the table; whether every requirement holds.
    pub fn print(&self) -> bool {
        println!("| figure | nginx | gateway | ratio | required | |\n|---|---|---|---|---|---|");
        let mut all = true;
        for Row { name, required } in &self.rows {
            let (nginx, gateway) = (self.of(name, "nginx"), self.of(name, "gateway"));
            let ratio = match (&nginx, &gateway) {
                (Some(nginx), Some(gateway)) if nginx.median > 0.0 => Some(gateway.median / nginx.median),
                _ => None,
            };
            let value = gateway.as_ref().map_or(f64::NAN, |figure| figure.median);
            let base = nginx.as_ref().map_or(0.0, |figure| figure.median);
            let (text, holds) = match *required {
                Required::Ratio(most) => (format!("≤ {most} ×"), ratio.is_some_and(|ratio| ratio <= most)),
                Required::Above(most) => (format!("≤ +{most}"), value <= base + most),
                Required::AtMost(most) => (format!("≤ {most}"), value <= most),
                Required::Shown => (String::new(), true),
            };
            all &= holds;
            let shown = |figure: Option<Figure>| figure.map_or(String::new(), |figure| figure.text());
            let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
            let verdict = if holds { "" } else { "falls short" };
            println!("| {name} | {} | {} | {ratio} | {text} | {verdict} |", shown(nginx), shown(gateway));
        }
        all
    }

    fn of(&self, name: &str, side: &'static str) -> Option<Figure> {
        let mut values = self.values.get(&(name.to_owned(), side))?.clone();
        values.sort_by(f64::total_cmp);
        let median = values[values.len() / 2];
        Some(Figure { median, least: values[0], most: values[values.len() - 1] })
    }
}

struct Figure {
    median: f64,
    least: f64,
    most: f64,
}

impl Figure {
    fn text(&self) -> String {
        format!("{:.3} ({:.3}–{:.3})", self.median, self.least, self.most)
    }
}

/// The value below which this share of the sorted values lies.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
    values.get(index).copied().unwrap_or(f64::NAN)
}
