//! Rows about one provider's models from several places become one row a model.

use std::collections::HashMap;

use provider_api::model::{Mode, Model};

/// Rows from a file beside the plugin override rows with the same id, field by field where they say
/// something, or add models. Their prices win: who writes one into a file means it.
pub fn merge_rows(models: &mut Vec<Model>, rows: Vec<Model>) {
    merge(models, rows, |_, row| row);
}

/// Rows that were found rather than written, for example in an upstream's own list: as
/// [`merge_rows`], but an undated price never replaces a dated one.
pub fn merge_found(models: &mut Vec<Model>, rows: Vec<Model>) {
    merge(models, rows, |known, mut row| {
        if known.price_date.is_some() && row.price_date.is_none() {
            row.input_cost = None;
            row.output_cost = None;
            row.cached_input_cost = None;
            row.cache_write_cost = None;
        }
        row
    });
}

fn merge(models: &mut Vec<Model>, rows: Vec<Model>, fit: impl Fn(&Model, Model) -> Model) {
    // A model may have several rows, one for each of its shortcodes.
    let mut places: HashMap<String, Vec<usize>> = HashMap::with_capacity(models.len());
    for (index, model) in models.iter().enumerate() {
        places.entry(model.id.clone()).or_default().push(index);
    }
    for row in rows {
        let known = places.entry(row.id.clone()).or_default();
        if known.is_empty() {
            known.push(models.len());
            models.push(row);
            continue;
        }
        for (nth, &index) in known.iter().enumerate() {
            let mut fitting = fit(&models[index], row.clone());
            if nth > 0 {
                fitting.shortcode.clear();
            }
            overlay(&mut models[index], fitting);
        }
    }
}

/// Writes what `row` says over `model`; the id stays.
pub(super) fn overlay(model: &mut Model, row: Model) {
    fn set<T>(target: &mut Option<T>, value: Option<T>) {
        if value.is_some() {
            *target = value;
        }
    }
    let prices = [row.input_cost, row.output_cost, row.cached_input_cost, row.cache_write_cost];
    if prices.iter().any(Option::is_some) {
        // The old date says nothing about a new price.
        model.price_date = row.price_date;
    }
    if !row.shortcode.is_empty() {
        model.shortcode = row.shortcode;
    }
    if row.mode != Mode::Chat {
        model.mode = row.mode;
    }
    set(&mut model.input_cost, row.input_cost);
    set(&mut model.output_cost, row.output_cost);
    set(&mut model.cached_input_cost, row.cached_input_cost);
    set(&mut model.cache_write_cost, row.cache_write_cost);
    set(&mut model.max_input_tokens, row.max_input_tokens);
    set(&mut model.max_output_tokens, row.max_output_tokens);
    set(&mut model.min_temperature, row.min_temperature);
    set(&mut model.max_temperature, row.max_temperature);
    set(&mut model.requires_completion_tokens, row.requires_completion_tokens);
    if !row.capabilities.is_empty() {
        model.capabilities = row.capabilities;
    }
    if !row.drops.is_empty() {
        model.drops = row.drops;
    }
    set(&mut model.deprecation_date, row.deprecation_date);
    set(&mut model.successor, row.successor);
    set(&mut model.source, row.source);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(id: &str, shortcode: &str, input_cost: Option<f64>, price_date: Option<&str>) -> Model {
        Model {
            id: id.into(),
            shortcode: shortcode.into(),
            input_cost,
            price_date: price_date.map(Into::into),
            max_input_tokens: Some(1),
            ..Model::default()
        }
    }

    #[test]
    fn written_rows_override_what_they_name_and_add_models() {
        let mut models =
            vec![model("a", "s", Some(1.0), Some("2026-01-01")), model("a", "alias", None, None)];
        merge_rows(
            &mut models,
            vec![
                Model { id: "a".into(), shortcode: "new".into(), input_cost: Some(2.0), ..Model::default() },
                model("b", "b", None, None),
            ],
        );
        assert_eq!(
            models,
            [
                model("a", "new", Some(2.0), None),
                model("a", "alias", Some(2.0), None),
                model("b", "b", None, None),
            ]
        );
    }

    #[test]
    fn found_prices_replace_only_undated_ones() {
        let check = |before: Model, found: Model, expected: Option<f64>| {
            let mut models = vec![before];
            merge_found(&mut models, vec![found]);
            assert_eq!(models[0].input_cost, expected);
        };
        check(model("a", "", Some(1.0), Some("2026-01-01")), model("a", "", Some(2.0), None), Some(1.0));
        check(model("a", "", Some(1.0), None), model("a", "", Some(2.0), None), Some(2.0));
        check(model("a", "", Some(1.0), None), model("a", "", None, None), Some(1.0));
        let newer = model("a", "", Some(2.0), Some("2026-02-01"));
        check(model("a", "", Some(1.0), Some("2026-01-01")), newer, Some(2.0));
    }
}
