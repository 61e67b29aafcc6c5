//! Several plugins, and several generations of one, live side by side in a process.

use provider_api::{
    loader::{open, vet},
    testing::Driver,
};

use crate::{echo, panicky};

/// Opens a fresh copy of a file and makes a provider of it.
pub fn driver(file: &[u8], config: &str) -> Driver {
    let manifest = vet(file).expect("a plugin").manifest;
    let module = open(file).expect("opens");
    Driver::around(module.create(config.as_bytes(), Box::new(|_, _| ())).expect("valid settings"), manifest)
}

/// How many exchanges this copy of the code began, this one included.
fn begun(driver: &Driver) -> String {
    let exchange = driver.chat("panicky", "{}", false, &[]).expect("begins");
    exchange.request().header("x-begun").expect("present").to_owned()
}

#[test]
fn two_different_plugins_are_both_themselves() {
    let (first, second) = (driver(&echo(), "{}"), driver(&panicky(), "{}"));
    assert_eq!(begun(&second), "1");
    let body = r#"{"messages":[{"role":"user","content":"hello there"}]}"#;
    let outcome = first.chat("echo", body, false, &[]).expect("begins").finish();
    assert!(outcome.text().contains("hello there"), "{}", outcome.text());
    assert_eq!(begun(&second), "2");
}

#[test]
fn each_opening_of_a_file_is_a_generation_of_its_own() {
    let file = panicky();
    let generations = [driver(&file, "{}"), driver(&file, "{}"), driver(&file, "{}")];
    for (uses, generation) in generations.iter().enumerate() {
        for _ in 0..uses {
            begun(generation);
        }
    }
    let counts: Vec<String> = generations.iter().map(begun).collect();
    assert_eq!(counts, ["1", "2", "3"]);
}

#[test]
fn a_changed_file_is_the_new_code_although_the_old_one_is_still_open() {
    let old = panicky();
    let mut new = old.clone();
    let name = b"\"name\": \"Panicky\"";
    let mut from = 0;
    while let Some(at) = memchr::memmem::find(&new[from..], name) {
        new[from + at..from + at + name.len()].copy_from_slice(b"\"name\": \"Changed\"");
        from += at;
    }
    let (old_driver, new_driver) = (driver(&old, "{}"), driver(&new, "{}"));
    assert_eq!(vet(&new).expect("a plugin").manifest.name, "Changed");
    begun(&old_driver);
    assert_eq!((begun(&old_driver), begun(&new_driver)), ("2".into(), "1".into()));
}

#[test]
fn generations_work_at_the_same_time_in_many_threads() {
    let file = panicky();
    let drivers = [driver(&file, "{}"), driver(&file, "{}")];
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let driver = &drivers[worker % 2];
            scope.spawn(move || {
                for _ in 0..50 {
                    begun(driver);
                }
            });
        }
    });
    assert_eq!((begun(&drivers[0]), begun(&drivers[1])), ("101".into(), "101".into()));
}
