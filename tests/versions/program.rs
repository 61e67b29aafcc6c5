//! A gateway's part of one version of provider-api: opens the files that it is given, in their order, in one
//! process, and has each answer; a line for each. Then all that opened answer once more.

use provider_api::{
    loader::{Refused, open, read, vet},
    testing::Driver,
};

fn main() {
    let mut drivers = Vec::new();
    for file in std::env::args().skip(1) {
        match load(&file) {
            Ok((driver, seen)) => {
                println!("{}{seen}", answer(&driver));
                drivers.push(driver);
            }
            Err(refused) => {
                println!("{}", refused.reason);
                eprintln!("{refused}");
            }
        }
    }
    for driver in &drivers {
        println!("again {}", answer(driver));
    }
}

fn load(file: &str) -> Result<(Driver, String), Refused> {
    let bytes = read(file.as_ref())?;
    let manifest = vet(&bytes)?.manifest;
    let module = open(&bytes)?;
    let instance = module.create(br#"{"word": "answers"}"#, Box::new(|_, _| ())).expect("a provider");
    #[cfg(feature = "extra")]
    let seen = format!(", module {:?}, provider {}", module.extra(), instance.extra());
    #[cfg(not(feature = "extra"))]
    let seen = String::new();
    Ok((Driver::around(instance, manifest), seen))
}

fn answer(driver: &Driver) -> String {
    let body = r#"{"messages": [{"role": "user", "content": "x"}]}"#;
    let outcome = driver.chat("model", body, true, &[]).expect("begins").finish();
    assert_eq!(outcome.fault, None);
    let text = outcome.text();
    let content = text.split("\"content\":\"").nth(1).expect("content");
    content.split('"').next().expect("a text").to_owned()
}
