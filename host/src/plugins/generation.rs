//! One loaded version of a plugin. Its code stays mapped for ever, so going back to it costs nothing.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::SystemTime,
};

use provider_api::{
    Fault, FaultKind,
    exchange::{Instance, LogFn},
    loader::{Module, Record, Refused, Sealed},
    model::{Manifest, Model},
};

use super::{meter::Meter, probe};
use crate::catalog;

/// One loaded version of a plugin, with the models table that lies beside its file now.
pub struct Generation {
    /// Rises by one with each file that is loaded for this plugin.
    pub number: u64,
    /// The plugin's id.
    pub id: Arc<str>,
    /// Where it was read.
    pub file: PathBuf,
    /// Of the file's bytes, in hex.
    pub sha256: Arc<str>,
    /// What it says about itself, the sidecar's rows included.
    pub manifest: Manifest,
    /// The compiler that built it.
    pub rustc: Arc<str>,
    /// When it was loaded.
    pub loaded_at: SystemTime,
    /// What it did.
    pub meter: Arc<Meter>,
    /// The rows of the table beside it.
    sidecar: Vec<Model>,
    code: Arc<Code>,
}

/// What all views of one loaded version share.
struct Code {
    own_models: Vec<Model>,
    sealed: Sealed,
    /// The code in this process; none as long as it runs in worker processes alone.
    module: OnceLock<Module>,
    /// Settings with which a child process made a provider, so that this one may.
    tried: Mutex<Vec<Vec<u8>>>,
}

/// A file that passed its checks, ready to be mapped.
pub struct Fresh {
    /// Where it is.
    pub file: PathBuf,
    /// Its bytes' digest.
    pub sha256: Arc<str>,
    /// What it says about itself.
    pub record: Record,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Settings with which a child process made a provider.
    pub tried: Vec<Vec<u8>>,
}

impl Generation {
    /// Maps a file's bytes, unless it runs in worker processes alone.
    ///
    /// # Errors
    /// A missing symbol, another layout.
    pub fn load(fresh: Fresh, number: u64, sidecar: Vec<Model>, apart: bool) -> Result<Self, Refused> {
        let Fresh { file, sha256, record, bytes, tried } = fresh;
        let sealed = Sealed::new(&bytes)?;
        let module = OnceLock::new();
        if !apart {
            let _ = module.set(sealed.open()?);
        }
        let Record { mut manifest, rustc } = record;
        let own_models = manifest.models.clone();
        catalog::merge_rows(&mut manifest.models, sidecar.clone());
        Ok(Self {
            number,
            id: manifest.id.as_str().into(),
            file,
            sha256,
            manifest,
            rustc: rustc.into(),
            loaded_at: SystemTime::now(),
            meter: Arc::default(),
            sidecar,
            code: Arc::new(Code { own_models, sealed, module, tried: Mutex::new(tried) }),
        })
    }

    /// The same version with another place or another table beside it.
    pub fn placed(self: &Arc<Self>, file: PathBuf, sidecar: Vec<Model>) -> Arc<Self> {
        if self.file == file && self.sidecar == sidecar {
            return Arc::clone(self);
        }
        let (loaded_at, meter) = (self.loaded_at, Arc::clone(&self.meter));
        Arc::new(Self { loaded_at, meter, ..self.copied(self.number, file, sidecar) })
    }

    /// A further generation of the same code, which is mapped already.
    pub fn again(&self, number: u64, file: PathBuf, sidecar: Vec<Model>) -> Arc<Self> {
        Arc::new(self.copied(number, file, sidecar))
    }

    fn copied(&self, number: u64, file: PathBuf, sidecar: Vec<Model>) -> Self {
        let mut manifest = self.manifest.clone();
        manifest.models.clone_from(&self.code.own_models);
        catalog::merge_rows(&mut manifest.models, sidecar.clone());
        Self {
            number,
            id: Arc::clone(&self.id),
            file,
            sha256: Arc::clone(&self.sha256),
            manifest,
            rustc: Arc::clone(&self.rustc),
            loaded_at: SystemTime::now(),
            meter: Arc::default(),
            sidecar,
            code: Arc::clone(&self.code),
        }
    }

    /// The file's bytes, which nobody can change any more.
    pub fn sealed(&self) -> &Sealed {
        &self.code.sealed
    }

    /// Has a child process make a provider with these settings, unless one did before: they, too, may be
    /// what ends a process.
    ///
    /// # Errors
    /// How the child ended.
    pub fn try_out(&self, config: &[u8]) -> Result<(), Refused> {
        let tried = || self.code.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if tried().iter().any(|known| known == config) {
            return Ok(());
        }
        let config = config.to_vec();
        probe::probe(&self.code.sealed.bytes()?, std::slice::from_ref(&config))?;
        tried().push(config);
        Ok(())
    }

    /// Makes a provider in this process.
    ///
    /// # Errors
    /// What the plugin says, a panic included.
    pub fn create(&self, config: &[u8], log: LogFn) -> Result<Instance, Fault> {
        let module = match self.code.module.get() {
            Some(module) => *module,
            None => {
                let opened = self.code.sealed.open();
                let opened = opened.map_err(|refused| Fault::new(FaultKind::INTERNAL, refused.message))?;
                *self.code.module.get_or_init(|| opened)
            }
        };
        module.create(config, log)
    }
}
