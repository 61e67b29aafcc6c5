//! A plugin built with one version of provider-api. Its answer tells what it was given, and what a method
//! says that only the newer version's gateways have.

#![deny(unsafe_code)]

use provider_api::{Call, Config, Fault, Out, Provider, Start, answer::ChatAnswer};

struct Plugin(String);

impl Provider for Plugin {
    type State = ChatAnswer;
    const MANIFEST: &'static str = concat!(
        r#"{"schema": 1, "version": "1.0.0", "license": "MIT", "api": "1.0", "offer": "always","#,
        r#""operations": ["chat"], "base_url": "https://versions.example","#,
        r#""config": {"type": "object", "properties": {"word": {"type": "string"}}},"#,
        concat!(r#""id": ""#, env!("CARGO_PKG_NAME"), r#"", "name": "One of several","#),
        concat!(r#""models": [{"id": ""#, env!("CARGO_PKG_NAME"), r#"-model"}]}"#)
    );

    fn new(config: &Config) -> Result<Self, Fault> {
        Ok(Self(config.setting("word")?.unwrap_or_default()))
    }

    fn begin(&self, call: &Call<'_>, answer: &mut ChatAnswer) -> Result<Start, Fault> {
        *answer = ChatAnswer::new(call);
        Ok(Start::Now)
    }

    fn timer(&self, answer: &mut ChatAnswer, _id: u64, out: &mut Out<'_, '_>) -> Result<(), Fault> {
        #[cfg(feature = "extra")]
        let gateway = out.extra().to_string();
        #[cfg(not(feature = "extra"))]
        let gateway = "unasked";
        let text = format!("\"{} {}, gateway {gateway}\"", env!("CARGO_PKG_NAME"), self.0);
        out.chunk(answer.delta(&[("content", text.as_str())]));
        out.chunk(answer.finish("stop"));
        out.done(b"");
        Ok(())
    }
}

provider_api::export_provider!(Plugin);
