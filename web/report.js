/**
 * What a node has to say stays under it after the run.
 *
 * The editor clears the text that a node sends by progress_text when the job ends (frontends from
 * 1.55 on), and shows the text of an output on core's own preview nodes alone. So it goes into a
 * widget of the node: read-only, and part of no saved file and of no prompt.
 */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { ComfyWidgets } from "../../scripts/widgets.js";

const WIDGET = "what was done";
const HEIGHT = 64; // what is longer scrolls

function widgetOf(node) {
    return node.widgets?.find((widget) => widget.name === WIDGET);
}

function addWidget(node) {
    const { widget } = ComfyWidgets.STRING(node, WIDGET, ["STRING", { multiline: true }], app);
    widget.serialize = false; // not in saved files
    widget.options.serialize = false; // not in prompts
    widget.options.read_only = true;
    widget.options.getMinHeight = () => HEIGHT;
    widget.options.getMaxHeight = () => HEIGHT;
    if (widget.element) widget.element.readOnly = true;
    return widget;
}

function show(node, text) {
    const widget = widgetOf(node) ?? (text && addWidget(node));
    if (!widget) return;
    widget.value = text;
    const [, height] = node.computeSize();
    if (height > node.size[1]) node.setSize([node.size[0], height]);
    node.setDirtyCanvas?.(true, true);
}

/** The summary and the notes of a node's report; nothing for other outputs. */
function showReport(node, output) {
    const report = output?.fewstep_report?.[0];
    if (report) show(node, [report.summary, ...(report.notes ?? [])].join("\n\n"));
}

/** A node by the id that the server runs it under: "3", or "3:7" for node 7 inside subgraph 3. */
function nodeRunAs(id) {
    let graph = app.rootGraph ?? app.graph;
    let node;
    for (const part of String(id).split(":")) {
        node = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part));
        graph = node?.subgraph;
    }
    return node;
}

/** A node by the id that its outputs are kept under: "3", or "<id of a subgraph>:7". */
function nodeKeptAs(id) {
    const [part, subgraph] = String(id).split(":").reverse();
    const root = app.rootGraph ?? app.graph;
    const graph = subgraph ? root?.subgraphs?.get(subgraph) : root;
    return graph?.getNodeById(part) ?? graph?.getNodeById(Number(part));
}

function isOurs(node) {
    return node?.comfyClass?.startsWith("FewStep");
}

app.registerExtension({
    name: "FewStep.Report",

    setup() {
        api.addEventListener("fewstep.told", ({ detail }) => {
            const node = nodeRunAs(detail.node);
            // In another tab's graph another node may have this id.
            const isMeant = !detail.type || node?.comfyClass === detail.type;
            if (node && isMeant) show(node, detail.text);
        });
        // A node that runs again says everything anew.
        api.addEventListener("executing", ({ detail }) => {
            const id = detail?.display_node ?? detail?.node ?? detail;
            const node = id && nodeRunAs(id);
            if (node && widgetOf(node)) show(node, "");
        });
    },

    nodeCreated(node) {
        if (!isOurs(node)) return;
        const before = node.onExecuted;
        node.onExecuted = function (output) {
            before?.call(this, output);
            showReport(this, output);
        };
    },

    /** Outputs that the editor has kept, when another tab's graph is shown again. */
    onNodeOutputsUpdated(outputs) {
        for (const [id, output] of Object.entries(outputs ?? {})) {
            const node = nodeKeptAs(id);
            if (isOurs(node)) showReport(node, output);
        }
    },
});
