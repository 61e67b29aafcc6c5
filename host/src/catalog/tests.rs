//! What the catalog promises, as tables.

use std::collections::BTreeMap;

use super::*;

/// `provider offer row row …`, where a row is `shortcode=id`, `=id`, or `shortcode` for both.
fn source(text: &str) -> Source {
    let mut words = text.split(' ');
    let mut word = || words.next().expect("provider and offer");
    let (provider, offer) = (word(), word());
    let models = words.map(|row| {
        let (shortcode, id) = row.split_once('=').unwrap_or((row, row));
        Model { shortcode: shortcode.into(), id: id.into(), ..Model::default() }
    });
    Source {
        provider: provider.into(),
        plugin: provider.into(),
        offer: if offer == "always" { Offer::Always } else { Offer::Listed },
        key: Key::NotNeeded,
        base_urls: vec![format!("https://{provider}.test/v1")],
        models: models.collect(),
    }
}

fn built(sources: &[Source], list: &str, owners: &Owners) -> (Catalog, Vec<String>) {
    let (list, mut warnings) = List::parse(list);
    let (catalog, more) = build::build_on(sources, &list, owners, "2026-11-24");
    warnings.extend(more);
    (catalog, warnings.iter().map(ToString::to_string).collect())
}

/// `name>target` of each entry, and the warnings.
fn offered(sources: &[&str], list: &str) -> (String, Vec<String>) {
    let sources: Vec<Source> = sources.iter().map(|text| source(text)).collect();
    let (catalog, warnings) = built(&sources, list, &Owners::default());
    (names_of(&catalog), warnings)
}

fn names_of(catalog: &Catalog) -> String {
    let names: Vec<_> =
        catalog.entries().iter().map(|entry| format!("{}>{}", entry.name, entry.target)).collect();
    names.join(" ")
}

#[test]
fn the_list_chooses_beside_what_is_always_offered() {
    let sources = ["cloud listed kimi=kimi-k2.5 kimi-8k=moon-8k =GLM-4.6", "local always tiny=tiny:1b =big"];
    let local = "big>local/big tiny>local/tiny:1b";
    let check = |list: &str, cloud: &str, warning: &str| {
        let (names, warnings) = offered(&sources, list);
        assert_eq!(names, format!("{cloud} {local}").trim(), "{list}");
        assert!(warnings.concat().contains(warning), "{list}: {warnings:?}");
        assert_eq!(warnings.is_empty(), warning.is_empty(), "{list}: {warnings:?}");
    };
    check("", "", "");
    check("KIMI", "kimi>cloud/kimi-k2.5", "");
    check("kimi-k2.5, glm-4.6", "GLM-4.6>cloud/GLM-4.6 kimi>cloud/kimi-k2.5", "");
    check("cloud/moon-8k\ntiny", "kimi-8k>cloud/moon-8k", "");
    check("cloud/*\n!kimi-8?,!moon-8k", "GLM-4.6>cloud/GLM-4.6 kimi>cloud/kimi-k2.5", "");
    check("kimi*,!*-8k", "kimi>cloud/kimi-k2.5", "");
    check("kimi3", "", "models.csv, line 1: model `kimi3` is unknown and ignored; did you mean `kimi`?");
    check("zzz", "", "model `zzz` is unknown to the providers");
    check("x*", "", "`x*` matches no model");
    let (names, _) = offered(&sources, "!local/*\nkimi");
    assert_eq!(names, "kimi>cloud/kimi-k2.5", "! hides also what is always offered");
}

#[test]
fn a_table_chooses_and_overrides() {
    let mut sources = [
        source("mammouth listed gpt41=gpt-4.1 claude-h=claude x"),
        source("glm listed glm=glm-4.6"),
        source("moonshot listed kimi"),
    ];
    sources[0].models[0].input_cost = Some(9.0);
    sources[0].models[0].price_date = Some("2026-01-01".into());
    sources[0].models[0].max_output_tokens = Some(32768);
    let (catalog, warnings) = built(
        &sources,
        "gpt-4.1;gpt41;https://api.mammouth.ai/v1/chat/completions;K;128000;0;2.0;8.0;0.0;1.5;true\n\
         GLM-4.6;zai;https://glm.test/anything;K;1;1;1;1;0;1;false\n\
         gpt-4.1;four;https://api.mammouth.ai/v1/chat/completions;K;1;1;1;1;0;1;false\n\
         new;n;https://api.moonshot.cn/v1;K;1;1;1;1;0;1;false\n\
         a;a;https://elsewhere.test/v1;K;1;1;1;1;0;1;false\n\
         b;b;https://api.z.ai/v1;K;1;1;1;1;0;1;false\n\
         claude;claude-h\n",
        &Owners::default(),
    );
    assert_eq!(
        names_of(&catalog),
        "zai>glm/glm-4.6 claude-h>mammouth/claude four>mammouth/gpt-4.1 gpt41>mammouth/gpt-4.1 n>moonshot/new"
    );
    let gpt = catalog.resolve("gpt41").expect("listed");
    assert_eq!(
        (gpt.model.input_cost, gpt.model.max_input_tokens, gpt.model.max_output_tokens),
        (Some(2.0), Some(128_000), Some(32768))
    );
    assert_eq!((gpt.model.max_temperature, gpt.requires_completion_tokens), (Some(1.5), true));
    assert_eq!(gpt.model.price_date, None);
    for (warning, expected) in warnings.iter().zip([
        "line 7: the row has 2 fields",
        "line 5: no provider is known for the host `elsewhere.test`",
        "line 6: the row is ignored: its provider `zai` is not installed",
    ]) {
        assert!(warning.contains(expected), "{warning}");
    }
    assert_eq!(warnings.len(), 3, "{warnings:?}");
}

#[test]
fn one_owns_a_name_and_the_others_keep_their_own() {
    let sources = [source("b always k=x"), source("a always k=y k2=x")];
    let owners = |pinned: &[(&str, &str)], recorded: &[(&str, &str)]| {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, owner)| ((*name).into(), (*owner).into())).collect()
        };
        Owners { pinned: map(pinned), recorded: map(recorded) }
    };
    let check = |owners: &Owners, expected: &str, warning: &str| {
        let (catalog, warnings) = built(&sources, "", owners);
        assert_eq!(names_of(&catalog), expected);
        assert!(warnings.concat().contains(warning), "{warnings:?}");
        let (again, _) = built(&sources, "", catalog.owners());
        assert_eq!(names_of(&again), expected, "stable from now on");
        for (target, id) in [("a/y", "y"), ("a/x", "x"), ("b/x", "x")] {
            assert_eq!(catalog.resolve(target).map(|entry| entry.model.id.clone()).ok().as_deref(), Some(id));
        }
    };
    let first = "k>a/y k2>a/x b/x>b/x";
    check(&Owners::default(), first, "`k` is claimed by several models and means `a/y`; use `b/x`");
    let second = "k2>a/x y>a/y k>b/x";
    check(&owners(&[], &[("k", "b/x")]), second, "means `b/x`; use `a/y`");
    check(&owners(&[("k", "b")], &[("k", "a/y")]), second, "");
    check(&owners(&[("k", "c")], &[]), first, "[models] gives `k` to `c`, which has no model of that name");
    let vacant = "k2>a/x y>a/y b/x>b/x";
    check(&owners(&[], &[("k", "gone/z")]), vacant, "`k` belongs to `gone/z`");

    // A name in the list means one model.
    let sources = [source("b listed k=x"), source("a listed k=y")];
    let (catalog, warnings) = built(&sources, "k", &owners(&[("k", "b")], &[]));
    assert_eq!((names_of(&catalog).as_str(), warnings), ("k>b/x", vec![]));
}

#[test]
fn spellings_find_their_model_and_misses_are_explained() {
    let sources = [
        source("moonshot listed kimi=kimi-k2.5 kimi-thinking=kimi-k2-thinking gpt4o"),
        source("router always =moonshot/kimi-k2.5 Kimi=UPPER"),
    ];
    let (catalog, _) = built(&sources, "kimi,kimi-thinking", &Owners::default());
    let check = |name: &str, expected: &str| {
        let found = catalog.resolve(name).map(|entry| entry.target.to_string());
        assert_eq!(found.unwrap_or_else(|error| error.message), expected, "{name}");
    };
    check("kimi", "moonshot/kimi-k2.5");
    check("Kimi", "router/UPPER");
    check("KIMI", "moonshot/kimi-k2.5");
    check("upper", "router/UPPER");
    check("moonshot/kimi", "moonshot/kimi-k2.5");
    check("Moonshot/Kimi-K2.5", "moonshot/kimi-k2.5");
    check("moonshot/kimi-k2.5", "moonshot/kimi-k2.5");
    check("router/moonshot/kimi-k2.5", "router/moonshot/kimi-k2.5");
    check(
        "kimi-k9",
        "model `kimi-k9` is not offered; the nearest names are `Kimi`, `kimi` and `kimi-k2.5`; see GET /v1/models",
    );
    check("zzz", "model `zzz` is not offered; see GET /v1/models");
    check("GPT4o", "model `GPT4o` is known at moonshot but models.csv leaves it out; see GET /v1/models");
    check("gpt4", "model `gpt4` is not offered; see GET /v1/models");
    let error = catalog.resolve("").expect_err("no name");
    assert_eq!((error.status.as_u16(), error.code.as_deref()), (404, Some("model_not_found")));
    assert_eq!(error.param.as_deref(), Some("model"));
}

#[test]
fn retired_models_name_their_successor() {
    let mut sources = [source("p always a b c")];
    for (model, (date, successor)) in sources[0].models.iter_mut().zip([
        ("2026-08-31", Some("newer")),
        ("2026-11-25", Some("newer")),
        ("2026-11-24", None),
    ]) {
        model.deprecation_date = Some(date.into());
        model.successor = successor.map(Into::into);
    }
    let (_, warnings) = built(&sources, "", &Owners::default());
    assert_eq!(
        warnings,
        [
            "model `a` (a at p) was retired on 2026-08-31; use `newer` instead",
            "model `c` (c at p) was retired on 2026-11-24; no successor is known; pick another from GET /v1/models",
        ]
    );
}

#[test]
fn endpoints_are_shown_from_the_plugins_own_base() {
    let check = |base: &[&str], mode, expected: &str| {
        let mut sources = [source("p always m")];
        sources[0].base_urls = base.iter().map(ToString::to_string).collect();
        sources[0].models[0].mode = mode;
        let (catalog, _) = built(&sources, "", &Owners::default());
        assert_eq!(&*catalog.entries()[0].endpoint, expected);
    };
    check(&["https://h/v1", "http://10.0.0.1/secret"], Mode::Chat, "https://h/v1/chat/completions");
    check(&["http://localhost:11434/"], Mode::Embedding, "http://localhost:11434/v1/embeddings");
    check(&[], Mode::Chat, "");
}

#[test]
fn ten_thousand_models_stay_cheap() {
    let rows: Vec<String> = (0..10_000).map(|n| format!("short{n}=model-{n}")).collect();
    let sources = [source(&format!("p always {}", rows.join(" ")))];
    let started = std::time::Instant::now();
    let (catalog, warnings) = built(&sources, "short1*,!short77", &Owners::default());
    println!("built in {:?}", started.elapsed());
    let started = std::time::Instant::now();
    assert!(catalog.resolve("shirt77").is_err());
    println!("missed in {:?}", started.elapsed());
    assert_eq!((catalog.entries().len(), warnings.len()), (9_999, 0));
    assert!(catalog.resolve("model-9999").is_ok());
}

#[test]
fn all_that_is_known_keeps_the_names_of_what_is_offered() {
    let sources: Vec<Source> =
        ["a listed kimi=one =two", "b listed kimi=uno"].into_iter().map(source).collect();
    let (list, _) = List::parse("b/uno,!two");
    let (offered, _) = build(&sources, &list, &Owners::default());
    assert_eq!(names_of(&offered), "kimi>b/uno");
    let all = build_all(&sources, &list, offered.owners());
    assert_eq!(names_of(&all), "one>a/one two>a/two kimi>b/uno");
}
