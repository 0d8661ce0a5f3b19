//! `status`: what a running proxy does, once or again and again.

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::sleep;

use super::say::{complain, is_enough, print};
use super::signals::stop_signal;
use super::{fail, run_to_end, wrong};
use crate::admin::ask::{self, AskError, Place};
use crate::admin::state::State;
use crate::admin::table::table;
use crate::config::secret::Secret;
use crate::config::secret::{SecretSource, Surroundings};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The admin listener, `http://HOST:PORT` or `unix:/PATH`
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8081", env = "MERGE_SYNC_PROXY_ADMIN")]
    admin: Place,
    /// Print again every second, until Ctrl-C
    #[arg(long, short)]
    watch: bool,
    /// Print JSON: one object, or with --watch one a line
    #[arg(long)]
    json: bool,
    /// Show only accounts that have these words in their name, models, statuses or condition
    #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true)]
    filter: String,
    /// Show at most so many accounts, up to 200
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u16,
    /// The variable that holds the admin token
    #[arg(long, value_name = "NAME", conflicts_with = "token_file")]
    token_env: Option<String>,
    /// The file that holds the admin token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// How often `--watch` asks.
const EVERY: Duration = Duration::from_secs(1);

/// Begins the screen anew without a flash: to the top, and later clear what is left below.
const TOP: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K\n";
const CLEAR_BELOW: &str = "\x1b[J";

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let token = match arguments.token() {
        Ok(token) => token,
        Err(message) => return wrong(&message),
    };
    let result = run_to_end(1, async {
        if arguments.watch { arguments.watch(token.as_ref()).await } else { arguments.once(token.as_ref()).await }
    });
    match result {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) if error.downcast_ref().is_some_and(is_enough) => ExitCode::SUCCESS,
        Ok(Err(error)) => fail(&*error),
        Err(error) => fail(&error),
    }
}

type Failure = Box<dyn std::error::Error>;

impl Arguments {
    fn token(&self) -> Result<Option<Secret>, String> {
        let source = match (&self.token_env, &self.token_file) {
            (Some(name), _) => SecretSource::Env(name.clone()),
            (None, Some(file)) => SecretSource::File(file.clone()),
            (None, None) => return Ok(None),
        };
        let env = |name: &str| std::env::var_os(name);
        Surroundings { env: &env, folder: Path::new("") }.read(&source).map(Some)
    }

    async fn ask(&self, token: Option<&Secret>) -> Result<State, AskError> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("filter", &self.filter).append_pair("limit", &self.limit.to_string());
        ask::state(&self.admin, token, &query.finish()).await
    }

    fn text(&self, state: &State) -> Result<String, Failure> {
        Ok(if self.json {
            format!("{}\n", serde_json::to_string(state)?)
        } else {
            table(state, screen().map(|screen| screen.width))
        })
    }

    async fn once(&self, token: Option<&Secret>) -> Result<(), Failure> {
        let text = self.text(&self.ask(token).await?)?;
        Ok(print(&text)?)
    }

    /// A proxy that is gone for a while is waited for; one that was never there is an error.
    async fn watch(&self, token: Option<&Secret>) -> Result<(), Failure> {
        let stop = stop_signal()?;
        tokio::pin!(stop);
        let on_screen = !self.json && io::stdout().is_terminal();
        let mut seen = false;
        loop {
            let text = match self.ask(token).await {
                Ok(state) => self.text(&state)?,
                Err(
                    error @ (AskError::Nobody(..)
                    | AskError::Silent(_)
                    | AskError::NoHttp(..)
                    | AskError::Unreadable(..)),
                ) if seen => {
                    if on_screen {
                        format!("{error}\n")
                    } else {
                        complain(format_args!("merge-sync-proxy: {error}"));
                        String::new()
                    }
                }
                Err(error) => return Err(error.into()),
            };
            if on_screen {
                let text = screen().map_or_else(|| text.clone(), |screen| cut(&text, screen.height));
                let clear = if seen { "" } else { CLEAR_BELOW };
                print(&format!("{TOP}{clear}{}{CLEAR_BELOW}", text.replace('\n', CLEAR_LINE)))?;
            } else {
                print(&text)?;
            }
            seen = true;
            tokio::select! {
                _ = &mut stop => return Ok(()),
                () = sleep(EVERY) => {}
            }
        }
    }
}

/// How much a terminal shows, less a column and a line: what stands in the last of them could be wiped or scrolled away.
struct Screen {
    width: usize,
    height: usize,
}

/// `None` if the output is no terminal, or one that does not know its size.
fn screen() -> Option<Screen> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 1 && size.ws_row > 1)?;
    Some(Screen { width: usize::from(size.ws_col) - 1, height: usize::from(size.ws_row) - 1 })
}

/// The first lines of `text`, at most `height` with one that says how many there would be more.
fn cut(text: &str, height: usize) -> String {
    let count = text.lines().count();
    if count <= height {
        return text.to_owned();
    }
    let kept = height.saturating_sub(1);
    let mut shown: String = text.split_inclusive('\n').take(kept).collect();
    let _ = writeln!(shown, "… and {} more lines", count - kept);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_higher_than_the_screen_says_how_much_is_left() {
        assert_eq!(cut("a\nb\nc\n", 3), "a\nb\nc\n");
        assert_eq!(cut("a\nb\nc\nd\n", 3), "a\nb\n… and 2 more lines\n");
        assert_eq!(cut("a\nb\n", 0), "… and 2 more lines\n");
    }
}
