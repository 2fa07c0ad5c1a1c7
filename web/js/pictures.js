// What ComfyUI's page leaves packs no other way to. It forgets what nodes show when it is loaded
// again, shows nothing of several pictures that were chosen at once, and with Nodes 2.0 has no
// button to choose them.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const RUNS = 16; // so many of the last are looked through
const HEIGHT = 50; // of the list of the chosen ones, in pixels
const REFERENCES = "SeedSelectLoadReferenceSet";

const widgetOf = (node, name) => node.widgets.find((widget) => widget.name === name);

/** Shows pictures in a node as if it had just run. */
function show(id, output) {
  api.dispatchCustomEvent("executed", { node: id, display_node: id, output });
  app.canvas?.setDirty(true, true);
}

function showChosen(node) {
  const names = [widgetOf(node, "pictures").value].flat().filter(Boolean);
  const images = names.map((name) => {
    const [, subfolder, filename] = name.match(/^(?:(.*)\/)?([^/]*)$/);
    return { filename, subfolder: subfolder ?? "", type: "input" };
  });
  node.imgs = undefined;
  if (names.length) show(String(node.id), { images });
}

/** What the nodes of the graph that is open showed last, of the runs that the server remembers. */
async function outputsOfRuns() {
  const answer = await api.fetchApi(`/history?max_items=${RUNS}`);
  const found = {};
  for (const { prompt, outputs } of Object.values(await answer.json())) {
    // Other graphs have nodes of the same numbers.
    if (prompt[3]?.extra_pnginfo?.workflow?.id !== (app.rootGraph ?? app.graph).id) continue;
    for (const [id, output] of Object.entries(outputs))
      if (prompt[2][id]?.class_type.startsWith("SeedSelect")) found[id] = output;
  }
  return found;
}

async function showAgain() {
  const found = await outputsOfRuns();
  for (const node of app.graph.nodes)
    if (node.comfyClass === REFERENCES && !found[node.id]) showChosen(node);
  // What the page still knows is newer, but a picture of the input folder is not of a run.
  for (const [id, output] of Object.entries(found))
    if ((app.nodeOutputs[id]?.images?.[0]?.type ?? "input") === "input") show(id, output);
}

app.registerExtension({
  name: "seedselect.pictures",
  nodeCreated(node) {
    if (node.comfyClass !== REFERENCES) return;
    widgetOf(node, "upload").options.canvasOnly = false;
    const pictures = widgetOf(node, "pictures");
    pictures.callback = () => showChosen(node);
    // It would take the room that a node has below its widgets.
    pictures.options.getMaxHeight = () => HEIGHT;
  },
  afterConfigureGraph() {
    showAgain().catch((error) => console.warn("SeedSelect: no earlier pictures.", error));
  },
});
