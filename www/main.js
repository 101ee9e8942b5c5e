/** Wiring only: each panel does its own part. */

import { BiseError } from "./pkg/index.js";
import { BackendPanel } from "./panels/backend.js";
import { BlendPanel } from "./panels/blend.js";
import { ChatPanel } from "./panels/chat.js";
import { byId } from "./panels/dom.js";
import { MergePanel } from "./panels/merge.js";
import { MessagePanel } from "./panels/message.js";
import { ModelsPanel } from "./panels/models.js";
import { SamplingPanel } from "./panels/sampling.js";
import { SavePanel } from "./panels/save.js";
import { StatusPanel } from "./panels/status.js";
import { Views } from "./panels/views.js";

/** What the chat runs. @type {{ engine: import("./pkg/index.js").Engine, model: unknown } | null} */
let loaded = null;

const message = new MessagePanel();
const sampling = new SamplingPanel();
const chat = new ChatPanel({
  status: new StatusPanel(),
  sampling,
  message,
  lost: () => {
    backend.show(null);
    models.unload();
  },
  reload: () => models.reload(),
});
const blend = new BlendPanel({ chat, message });

const backend = new BackendPanel(() => models.moveOver());
const models = new ModelsPanel(backend, {
  onUnload: async (isAgain) => {
    message.clear();
    backend.show(null);
    const old = loaded;
    loaded = null;
    blend.attach(null, null);
    save.attach(null);
    await chat.attach(null, "", isAgain);
    await old?.engine.dispose();
  },
  onLoaded: (engine, name, model, isAgain) => {
    loaded = { engine, model };
    void chat.attach(engine, name, isAgain);
    backend.show(engine.info);
    blend.attach(engine, model);
    save.attach({ engine, name, model });
  },
  onFailed: (error, retry) => {
    const again = { label: "Try again", run: retry };
    const other = { label: "Choose another model", run: () => models.openPanel() };
    const code = error instanceof BiseError ? error.code : null;
    message.error(error, code === "unsupported-browser" ? [] : [again, ...backend.waysOut(code), other]);
  },
});

const save = new SavePanel({
  access: (model) => models.access(model),
  onFailed: (error, retry) => message.error(error, [{ label: "Try again", run: retry }]),
  showStored: () => {
    views.show("merge");
    void merge.showStored();
  },
});

const merge = new MergePanel({
  sampling,
  models,
  backend,
  loaded: () => loaded,
  unload: () => models.close(),
  showChat: () => views.show("chat"),
});
const views = new Views({ merge: { open: () => merge.open(), close: () => merge.close() } });

if (!matchMedia("(max-width: 52rem)").matches) byId("models-panel", HTMLDetailsElement).open = true;
models.loadDefault();
views.start();
