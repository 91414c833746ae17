//! The page that a server shows its operator: read-only, without scripts.

use crate::clock::{ago, until};
use crate::engine::Engine;
use crate::fault::Result;
use crate::records::{Model, State};
use crate::trainings::{Stage, Training};
use crate::wire::TrainingView;
use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1d2733;background:#fff}\
h1{font-size:1.4rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #dfe4ea;vertical-align:top}th{font-weight:600}\
td.n,th.n{text-align:right}.tiles{display:flex;flex-wrap:wrap;gap:.8rem;margin-top:1rem}.tile{border:1px solid #dfe4ea;border-radius:6px;padding:.5rem 1rem}\
.tile b{display:block;font-size:1.4rem}.bad{color:#a4262c}.quiet{color:#5b6773}code{font-size:.9em}\
@media(prefers-color-scheme:dark){body{color:#dde3ea;background:#14181d}th,td,.tile{border-color:#2d3640}.bad{color:#ff8a80}.quiet{color:#93a0ad}}";

/// Text as HTML has it.
fn plain(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Where a training is.
fn training(engine: &Engine, model: &Model, training: &Training) -> String {
    let view = TrainingView::new(engine, model.upload, training.clone(), false);
    match &view.stage {
        Stage::Failed(fault) => format!("<span class=\"bad\">{}: {}</span>", fault.kind.name(), plain(&fault.why)),
        Stage::Trained | Stage::Done => format!("done: {} iterations", view.iterations),
        Stage::Waiting | Stage::Begun => plain(&view.shown()),
    }
}

/// The page.
pub(crate) fn page(engine: &Engine) -> Result<String> {
    let (gauges, models) = (engine.gauges()?, engine.store.models()?);
    let jobs = engine.store.jobs_where(100, |_| true)?;
    let party = engine.config.party;
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"refresh\" content=\"5\"><title>sordino server {party}</title><style>{STYLE}</style></head><body>\
         <h1>sordino server {party}</h1><div class=\"quiet\">version {}, {}</div><div class=\"tiles\">",
        env!("CARGO_PKG_VERSION"),
        if engine.leads() { "leads" } else { "follows server 0" }
    );
    let tiles = [
        ("waiting", gauges.queued),
        ("running", gauges.running),
        ("answers kept", gauges.answers),
        ("models", gauges.models),
        ("loaded", gauges.loaded),
    ];
    for (name, n) in tiles {
        let _ = write!(out, "<div class=\"tile\"><b>{n}</b>{name}</div>");
    }
    let seen = engine.seen();
    let (well, trouble) = (seen.well, seen.trouble);
    let seen = well.map_or_else(|| "not yet".into(), ago);
    out += "</div><h2>Peers</h2><table><tr><th>server</th><th>address</th></tr>";
    for (i, address) in engine.config.servers.iter().enumerate().filter(|(i, _)| *i != party) {
        let _ = write!(out, "<tr><td>{i}</td><td><code>{}</code></td></tr>", plain(address));
    }
    let _ = write!(out, "</table><p>Last session that got on: {seen}.");
    if let Some((when, why)) = trouble {
        let _ = write!(out, " Last trouble, {}: <span class=\"bad\">{}</span>.", ago(when), plain(&why));
    }
    if let Some(end) = gauges.expires {
        let _ = write!(out, " This server's certificate is valid for {}.", until(end));
    }
    out += "</p>";
    out += "<h2>Models</h2><table><tr><th>name</th><th>owner</th><th class=\"n\">MB of shares</th><th>pushed</th><th>budgets: used, left</th><th>training</th></tr>";
    for m in &models {
        let budgets = gauges.budgets.iter().filter(|b| b.0 == m.name).map(|(_, client, used, left)| {
            let left = left.map_or_else(|| "no limit".into(), |l| l.to_string());
            format!("{}: {used}, {left}", plain(client))
        });
        let training = m.training.as_ref().map(|t| training(engine, m, t)).unwrap_or_default();
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{:.1}</td><td>{}</td><td>{}</td><td>{training}</td></tr>",
            plain(&m.name),
            plain(&m.owner),
            m.bytes as f64 / 1e6,
            ago(m.created),
            budgets.collect::<Vec<_>>().join("<br>")
        );
    }
    out += "</table><h2>Jobs</h2><table><tr><th>job</th><th>model</th><th>from</th><th>to</th><th>submitted</th><th>state</th></tr>";
    for j in jobs.iter().rev() {
        let state = match &j.state {
            State::Queued => format!("waits {}", j.note.as_deref().map(plain).unwrap_or_default()),
            State::Running => "runs".into(),
            State::Done => "answered".into(),
            State::Failed(fault) => {
                format!("<span class=\"bad\">{}: {}</span>", fault.kind.name(), plain(&fault.why))
            }
        };
        let _ = write!(
            out,
            "<tr><td><code>{}</code></td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{state}</td></tr>",
            j.id,
            plain(&j.model),
            plain(&j.owner),
            plain(&j.receiver),
            ago(j.created)
        );
    }
    out += "</table></body></html>\n";
    Ok(out)
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_in_a_name_is_markup() {
        assert_eq!(super::plain("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
