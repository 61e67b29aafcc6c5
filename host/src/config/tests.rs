//! Files and environments as people write them.

use std::{collections::BTreeMap, path::Path};

use serde_json::json;

use super::{fields::FIELDS, load::Reading, *};

/// Loads with this file in a data directory of its own.
fn read(file: Option<&[u8]>, args: ServerArgs, environment: &[(&str, &str)]) -> Result<Loaded, Problems> {
    let directory = tempfile::tempdir().expect("a directory");
    read_in(directory.path(), file, args, environment)
}

fn read_in(
    directory: &Path,
    file: Option<&[u8]>,
    args: ServerArgs,
    environment: &[(&str, &str)],
) -> Result<Loaded, Problems> {
    if let Some(file) = file {
        std::fs::write(directory.join("sigorest.toml"), file).expect("written");
    }
    let args = ServerArgs { data_dir: Some(directory.to_owned()), ..args };
    let environment: BTreeMap<&str, &str> = environment.iter().copied().collect();
    load(&args, &|name| environment.get(name).map(|value| (*value).to_owned()))
}

/// The mistakes in a file, one a line, with its name cut short.
fn mistakes(file: &str) -> String {
    let problems = match read(Some(file.as_bytes()), ServerArgs::default(), &[]) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => problems,
    };
    let name = problems.source.as_ref().map_or("", |source| &source.name).to_owned();
    let lines: Vec<String> = problems.lines().map(|(_, line)| line.replace(&name, "toml")).collect();
    lines.join("\n")
}

#[test]
fn every_mistake_is_shown_at_once() {
    let file = r#"
        http_prt = 90
        quiet = "yes"
        max_in_flight = 3
        data_dir = "x"
        access.http = ["127.0.0.0/8", "nonsense", 5]
        access.hots = ["a"]
        listen = 4
        limits = { max_body_bytes = "64 MB!", header_secs = 0, drain_secs = -1, max_in_flight = 1.5 }
        [breaker]
        failures =
        http_port = 4
        trials = 0
        [provider.acme]
        base_url = "https://user:pw@api"
        key_env = "sk-123"
        offer = "never"
        channels = 3
        models = ["a", { shrtcode = "b" }, {}]
        [models]
        gpt = 4
        [zebra]
    "#;
    insta::assert_snapshot!(mistakes(file), @r#"
toml:2:9: unknown setting or section `http_prt`; did you mean `http_port`?
toml:3:17: `quiet`: "yes" is not true or false
toml:4:9: unknown setting or section `max_in_flight`; `max_in_flight` belongs in the section [limits]
toml:5:9: unknown setting or section `data_dir`; set it with -data-dir, the file lies in it
toml:6:39: `access.http`: "nonsense" is not an address or a network; write 192.168.1.20 or 192.168.0.0/16
toml:6:51: `access.http`: 5 is not a network; write a string in quotes
toml:7:16: unknown setting `hots` in [access]; did you mean `hosts`?
toml:8:18: `listen` is a section; write [listen] on a line of its own and its settings below
toml:9:37: `limits.max_body_bytes`: "64 MB!" is not a size from 1 byte to 4 GiB; write bytes or a text such as "64 MiB"
toml:9:61: `limits.header_secs`: 0 is not a number of seconds from 0.01 to 3600
toml:9:77: `limits.drain_secs`: -1 is not a number of seconds from 0 to 86400
toml:9:97: `limits.max_in_flight`: 1.5 is not a whole number from 1 to 1048576
toml:11:19: string values must be quoted, expected literal string
toml:12:9: unknown setting `http_port` in [breaker]; `http_port` belongs at the top of the file, before the first [section]
toml:13:18: `breaker.trials`: 0 is not a whole number from 1 to 1000
toml:14:19: no installed plugin is called `acme`; provider `acme` is left out; put its file into a plugin directory, or name another plugin with `plugin = "…"`
toml:15:20: `provider.acme.base_url`: the URL holds a user name or password; put the key into the environment
toml:16:19: `provider.acme.key_env`: this is not a variable's name (A-Z, 0-9 and _); name the variable that holds the key, never write the key itself
toml:17:17: `provider.acme.offer`: "never" is not "always" or "listed"
toml:18:20: `provider.acme.channels`: channels are a table; write [provider.NAME.channels.CHANNEL] and its settings below
toml:19:26: `provider.acme.models`: a model has no `shrtcode`; did you mean `shortcode`?
toml:19:44: `provider.acme.models`: the model has no `id`
toml:21:15: `models.gpt` must be the name of a provider, in quotes
toml:22:10: unknown setting or section `zebra`; the sections are [access], [listen], [limits], [breaker], [models], [fallbacks] and [provider.NAME]
"#);
}

#[test]
fn a_mistake_is_shown_with_line_and_caret_and_without_colours_or_keys() {
    let file = b"[limits]\nheader_sec = 5\n[provider.x]\napi_key = \"sk-1\"\nbase_url = 5\n";
    let problems = read(Some(file), ServerArgs::default(), &[]).expect_err("mistakes");
    let name = problems.source.as_ref().expect("a file").name.clone();
    insta::assert_snapshot!(problems.to_string().replace(&name, "sigorest.toml"), @r#"
 x unknown setting `header_sec` in [limits]
  ,-[sigorest.toml:2:1]
1 | [limits]
2 | header_sec = 5
  : ^^^^^^^^^^
3 | [provider.x]
  `----
 help: did you mean `header_secs`?

 ! no installed plugin is called `x`; provider `x` is left out
  ,-[sigorest.toml:3:11]
2 | header_sec = 5
3 | [provider.x]
  :           ^
4 | api_key = "****"
  `----
 help: put its file into a plugin directory, or name another plugin with `plugin = "…"`

 x `provider.x.base_url`: 5 is not a URL; write a string in quotes
  ,-[sigorest.toml:5:12]
4 | api_key = "****"
5 | base_url = 5
  :            ^
  `----
"#);
    assert!(problems.render(true).contains('\u{1b}'));
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_defaults() {
    let file =
        b"http_port = 1\nlog_level = \"warn\"\nquiet = true\n[limits]\nheader_secs = 1.5\nconnect_secs = 7";
    let environment = [
        ("SIGOREST_HTTP_PORT", "2"),
        ("SIGOREST_QUIET", "false"),
        ("SIGOREST_LIMITS_HEADER_SECS", "2"),
        ("SIGOREST_LIMITS_MAX_BODY_BYTES", "1 KiB"),
        ("SIGOREST_ACCESS_HTTP", "10.0.0.1, ::1"),
        ("SIGOREST_HTTPS_PORT", ""),
    ];
    let args = ServerArgs { http_port: Some(3), ..ServerArgs::default() };
    let loaded = read(Some(file), args, &environment).expect("no mistakes");
    let shown = show(&loaded);
    let check = |name: &str, value: &str, origin: &str| {
        let line = shown.lines().find(|line| line.starts_with(&format!("{name} ="))).expect(name);
        let (text, from) = line.split_once(" # ").expect("an origin");
        assert_eq!((text.trim_end(), from), (&*format!("{name} = {value}"), origin));
    };
    check("http_port", "3", "flag -http-port");
    check("https_port", "9443", "default");
    check("log_level", "\"warn\"", "file, line 2");
    check("quiet", "false", "environment SIGOREST_QUIET");
    check("header_secs", "2", "environment SIGOREST_LIMITS_HEADER_SECS");
    check("connect_secs", "7", "file, line 6");
    check("max_body_bytes", "\"1 KiB\"", "environment SIGOREST_LIMITS_MAX_BODY_BYTES");
    check("drain_secs", "120", "default");
    check("http", "[\"10.0.0.1\", \"::1\"]", "environment SIGOREST_ACCESS_HTTP");
    assert_eq!(loaded.settings.limits.header, Duration::from_secs(2));
    assert_eq!(loaded.settings.http_addresses(), [IpAddr::from([0, 0, 0, 0]), IpAddr::from([0u16; 8])]);
}

#[test]
fn what_is_shown_can_be_written_into_the_file() {
    let shown = |settings: &Settings| -> Vec<String> {
        let lines = FIELDS.iter().map(|field| format!("{} = {}", field.key, (field.show)(settings)));
        lines.filter(|line| !line.contains("= #")).collect()
    };
    let defaults = shown(&Settings::default());
    assert!(defaults.len() > 25);
    let mut reading = Reading::default();
    file::apply(&mut reading, &defaults.join("\n"));
    assert_eq!(reading.problems.list, []);
    assert_eq!(shown(&reading.settings), defaults);
    let from_variables = read(None, ServerArgs::default(), &[("SIGOREST_ACCESS_MEMORY_WRITE", "::1")]);
    let written = from_variables.expect("no mistakes").settings.access.memory_write;
    assert_eq!(written, Some(vec!["::1/128".parse().expect("a network")]));
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let check = |file: Option<&[u8]>, args: ServerArgs, environment: &[(&str, &str)], expected: &str| {
        let problems = read(file, args, environment).expect_err(expected).to_string();
        assert!(problems.contains(expected), "{problems}");
    };
    let none = ServerArgs::default;
    check(Some(b"a = 1 # \xff"), none(), &[], "sigorest.toml is not UTF-8 (line 1)");
    check(Some(&vec![b'#'; (1 << 20) + 1]), none(), &[], "is larger than 1 MiB");
    let config = ServerArgs { config: Some("no/such.toml".into()), ..none() };
    check(None, config, &[], "-config: the configuration file no/such.toml does not exist");
    check(None, none(), &[("SIGOREST_CONFIG", "no.toml")], "SIGOREST_CONFIG: the configuration file no.toml");
    check(None, none(), &[("SIGOREST_HTTP_PORT", "x")], "SIGOREST_HTTP_PORT: \"x\" is not");
    check(None, none(), &[("ZAI_BASE_URL", "ftp://a")], "ZAI_BASE_URL: this is not an absolute http");
    check(None, none(), &[("SIGOREST_HTTP_PORT", "9443")], "cannot both use port 9443");
    let plugins = ServerArgs { plugin_dirs: vec!["/no/such".into()], ..none() };
    check(None, plugins, &[], "-plugin-dir: the plugin directory /no/such cannot be read");
    let loaded = read(Some(b"\xef\xbb\xbfhttp_port = 1\r\n"), none(), &[]).expect("a mark is no mistake");
    assert_eq!(loaded.settings.http_port, 1);
}

#[test]
fn paths_start_at_the_data_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().canonicalize().expect("a path");
    std::fs::create_dir(root.join("plugins")).expect("made");
    let file = b"cert = \"c.pem\"\n[provider.x]\nkey_file = \"x.key\"";
    let settings = read_in(&root, Some(file), ServerArgs::default(), &[]).expect("no mistakes").settings;
    assert_eq!((settings.cert, settings.key), (root.join("c.pem"), root.join("certs/server.key")));
    assert_eq!(settings.providers["x"].key_file, Some(root.join("x.key")));
    assert!(settings.plugin_dirs.contains(&root.join("plugins")));
    let file = b"plugin_dirs = [\"plugins\", \"plugins\"]";
    let settings = read_in(&root, Some(file), ServerArgs::default(), &[]).expect("no mistakes").settings;
    assert_eq!(settings.plugin_dirs, [root.join("plugins")]);
    let made = root.join("a/b");
    create_data_dir(&made).expect("made");
    let mode = std::os::unix::fs::PermissionsExt::mode(&made.metadata().expect("there").permissions());
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn providers_are_checked_against_their_plugins_schemas() {
    let file = br#"
        [provider.acme]
        base_url = "https://acme.example/v1"
        region = "eu-est"
        retrys = 3
        depth = 0
        tags = ["a", 2]
        api_key = "sk-1"
        [provider.work]
        plugin = "acme"
        region = "eu"
        depth = 2.5
        nested = { a = 1 }
        [provider.acne]
    "#;
    let schema = json!({
        "type": "object",
        "properties": {
            "region": {"type": "string", "enum": ["eu-east", "us"]},
            "retries": {"type": "integer", "minimum": 0},
            "depth": {"type": "integer", "minimum": 1, "maximum": 9},
            "tags": {"type": "array", "items": {"type": "string"}},
            "nested": {"type": "object", "properties": {"b": {}}, "additionalProperties": false, "required": ["b"]},
        },
        "required": ["tags"],
    });
    let settings = read(Some(file), ServerArgs::default(), &[]).expect("no mistakes of its own").settings;
    let problems = check_providers(&settings, &BTreeMap::from([("acme".to_owned(), schema)]));
    let name = problems.source.as_ref().expect("a file").name.clone();
    let lines: Vec<String> =
        problems.lines().map(|(kind, line)| format!("{kind:?} {}", line.replace(&name, "toml"))).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
Error toml:4:18: `provider.acme.region` must be one of "eu-east", "us"; did you mean "eu-east"?
Error toml:5:9: provider `acme` has no setting `retrys`; did you mean `retries`?
Error toml:6:17: `provider.acme.depth` must be at least 1
Error toml:7:22: `provider.acme.tags[1]` must be a string, but it is an integer
Error toml:8:9: provider `acme` has no setting `api_key`; keys do not stand in this file: set the provider's `…_API_KEY` variable, or name a variable with `key_env` or a file with `key_file`
Error toml:9:19: provider `work` needs the setting `tags`
Error toml:11:18: `provider.work.region` must be one of "eu-east", "us"
Error toml:12:17: `provider.work.depth` must be an integer, but it is a number
Error toml:13:18: provider `work` needs the setting `nested.b`
Error toml:13:20: provider `work` has no setting `a`; `sigoREST plugin inspect FILE` shows which settings a plugin has
Warning toml:14:19: no installed plugin is called `acne`; provider `acne` is left out; did you mean `acme`?
"#);
}

#[test]
fn mistyped_variables_are_named() {
    let names =
        ["SIGOREST_HTTP_PORT", "SIGOREST_CONFIG", "HOME", "SIGOREST_LIMITS_HEADER_SEC"].map(str::to_owned);
    let lines: Vec<_> = unknown_variables(names.into_iter()).lines().collect();
    let expected =
        "SIGOREST_LIMITS_HEADER_SEC: no setting has this name; did you mean `SIGOREST_LIMITS_HEADER_SECS`?";
    assert_eq!(lines, [(Severity::Warning, expected.to_owned())]);
}

proptest::proptest! {
    #[test]
    fn no_text_is_too_strange(text in "([a-z_.]{0,8}|[\\[\\]{}=\"',#\n\r0-9 -]|limits|http|provider|é|\u{0}){0,40}") {
        let mut reading = Reading::default();
        let source = Arc::new(Source { name: "t".into(), text });
        reading.problems.source = Some(source.clone());
        file::apply(&mut reading, &source.text);
        let _ = reading.problems.render(false);
        reading.settings.source = Some(source);
        let _ = check_providers(&reading.settings, &BTreeMap::from([("a".to_owned(), json!({}))])).to_string();
    }
}
