//! Rows of one provider from several places become one row a model.

use provider_api::model::{Mode, Model};

/// Rows from a file of the operator's override rows with the same id, field by field where they say
/// something, or add models. Their prices win: who writes one into a file means it.
pub fn merge_rows(models: &mut Vec<Model>, rows: Vec<Model>) {
    for row in rows {
        match position(models, &row.id) {
            Some(index) => overlay(&mut models[index], row),
            None => models.push(row),
        }
    }
}

/// Rows that were found rather than written, for example in an upstream's own list: as
/// [`merge_rows`], but an undated price never replaces a dated one.
pub fn merge_found(models: &mut Vec<Model>, rows: Vec<Model>) {
    for mut row in rows {
        let Some(index) = position(models, &row.id) else {
            models.push(row);
            continue;
        };
        if models[index].price_date.is_some() && row.price_date.is_none() {
            row.input_cost = None;
            row.output_cost = None;
            row.cached_input_cost = None;
            row.cache_write_cost = None;
        }
        overlay(&mut models[index], row);
    }
}

fn position(models: &[Model], id: &str) -> Option<usize> {
    models.iter().position(|model| model.id == id)
}

/// Writes what `row` says over `model`.
pub(super) fn overlay(model: &mut Model, row: Model) {
    fn set<T>(target: &mut Option<T>, value: Option<T>) {
        if value.is_some() {
            *target = value;
        }
    }
    let priced = row.input_cost.is_some()
        || row.output_cost.is_some()
        || row.cached_input_cost.is_some()
        || row.cache_write_cost.is_some();
    if priced {
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
