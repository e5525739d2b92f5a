"use strict";
// Shows structures with NGL, which the page holds packed: unpacked in the browser, it is loaded from a blob.
(() => {
  const packed = document.getElementById("ngl");
  if (!packed) return;

  // The file is a chunk of a webpack build; this stands in for the little of webpack's run time that it asks for.
  const modules = {};
  self.webpackChunknglview_js_widgets = { push: ([, found]) => Object.assign(modules, found) };
  const cache = {};
  const load = (id) => {
    if (!cache[id]) {
      cache[id] = { id, exports: {}, children: [], paths: [] };
      modules[id].call(cache[id].exports, cache[id], cache[id].exports, load);
    }
    return cache[id].exports;
  };
  load.g = globalThis;
  load.o = (object, key) => Object.prototype.hasOwnProperty.call(object, key);
  load.d = (exports, found) => {
    for (const key in found)
      if (!load.o(exports, key)) Object.defineProperty(exports, key, { enumerable: true, get: found[key] });
  };
  load.r = (exports) => Object.defineProperty(exports, "__esModule", { value: true });
  load.n = (module) => {
    const get = module && module.__esModule ? () => module.default : () => module;
    load.d(get, { a: get });
    return get;
  };
  load.nmd = (module) => module;

  const unpack = async () => {
    const bytes = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const url = URL.createObjectURL(new Blob([await new Response(stream).text()], { type: "text/javascript" }));
    await new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = url;
      script.onload = done;
      script.onerror = () => failed(new Error("the viewer could not be unpacked"));
      document.head.append(script);
    });
    URL.revokeObjectURL(url);
    const main = Object.keys(modules).find((id) => String(modules[id]).includes("StructureComponent"));
    return load(main);
  };

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const rgb = (name) => Number.parseInt(colour(name).slice(1), 16);
  const place = (atom) => `${atom.chainname}|${atom.resno}|${(atom.inscode || "").trim()}`;

  const start = (NGL, viewer) => {
    const data = JSON.parse(viewer.querySelector("script").textContent);
    const box = viewer.querySelector(".stage");
    const said = viewer.querySelector(".said");
    const choice = viewer.querySelector("select");
    const contacts = [...viewer.querySelectorAll(".contacts")];
    const rest = viewer.querySelector(".rest");
    const stage = new NGL.Stage(box, { backgroundColor: colour("--wash"), tooltip: false, quality: "medium" });
    stage.log = () => {}; // it tells the console of every file
    let now = null;
    let whole; // what is looked at: residues with a value, and those they touch
    let scores = {};
    let shown = null;
    let lines = {}; // by kind of contact
    let others = null;
    const scheme = NGL.ColormakerRegistry.addScheme(function () {
      this.atomColor = (atom) => {
        const found = scores[place(atom)];
        return found ? rgb(`--q${found.step}`) : rgb("--c7");
      };
    });

    const tell = (atom) => {
      const found = scores[place(atom)];
      const where = `${atom.resname} ${atom.chainname}:${atom.resno}${(atom.inscode || "").trim()}`;
      said.textContent = found ? `${where}, ${data.label} ${Number(found.value.toPrecision(4))}` : `${where}, no ${data.label}`;
    };
    const look = () => {
      now.autoView(whole, 0); // so that it fits however it is turned
      if (box.clientWidth > 1.5 * box.clientHeight) stage.viewerControls.zoom(0.25);
    };
    const draw = async (index) => {
      const one = data.structures[index];
      stage.removeAllComponents();
      now = shown = others = null;
      lines = {};
      scores = Object.fromEntries(one.scores.map(([where, value, step]) => [where, { value, step }]));
      const binary = one.format === "bcif";
      if (one.format === "cif" && !one.text.includes("_chem_comp.id"))
        one.text += "\nloop_\n_chem_comp.id\n_chem_comp.type\nUNX other\n"; // NGL asks for it, and few programs write it
      const content = binary ? Uint8Array.from(atob(one.text), (letter) => letter.charCodeAt(0)) : one.text;
      const blob = new Blob([content]);
      now = await stage.loadFile(blob, { ext: one.format, defaultRepresentation: false });
      const scored = [];
      const partner = [];
      const touching = new Set(one.partner);
      now.structure.eachAtom((atom) => {
        if (scores[place(atom)]) scored.push(atom.index);
        else if (touching.has(place(atom))) partner.push(atom.index);
      });
      const selection = scored.length ? `@${scored.join(",")}` : "none";
      whole = scored.length ? `@${[...scored, ...partner].join(",")}` : undefined;
      others = now.addRepresentation("cartoon", { color: colour("--c7"), opacity: 0.35, sele: "polymer" });
      others.setVisibility(rest.checked);
      shown = now.addRepresentation("licorice", { sele: selection, color: scheme, multipleBond: false, radius: 0.28 });
      if (partner.length)
        now.addRepresentation("licorice", {
          sele: `@${partner.join(",")}`,
          color: "element",
          multipleBond: false,
          radius: 0.2,
        });
      for (const { value: kind, checked } of contacts) {
        const shape = new NGL.Shape(kind);
        const of = rgb(`--${data.kinds[kind]}`);
        const tint = [(of >> 16) / 255, ((of >> 8) & 255) / 255, (of & 255) / 255];
        for (const [a, b, c, d, e, f] of one.contacts[kind])
          shape.addCylinder([a, b, c], [d, e, f], tint, data.kinds[kind] === "c7" ? 0.05 : 0.1);
        lines[kind] = stage.addComponentFromObject(shape);
        lines[kind].addRepresentation("buffer", { opacity: 0.9 });
        lines[kind].setVisibility(checked);
      }
      // The longest way lies across.
      const axes = now.structure.getView(new NGL.Selection(whole || "*")).getPrincipalAxes();
      stage.animationControls.rotate(axes.getRotationQuaternion(), 0);
      stage.viewerControls.spin({ x: 0, y: 0, z: 1 }, Math.PI / 2);
      look();
      said.textContent = one.note;
      viewer.dataset.contacts = String(Object.values(one.contacts).flat().length);
      viewer.dataset.ready = String(one.scores.length);
    };

    stage.signals.hovered.add((picked) => {
      if (picked && picked.atom) tell(picked.atom);
    });
    choice.addEventListener("change", () => draw(choice.selectedIndex));
    for (const one of contacts)
      one.addEventListener("change", () => lines[one.value] && lines[one.value].setVisibility(one.checked));
    rest.addEventListener("change", () => others && others.setVisibility(rest.checked));
    viewer.querySelector(".reset").addEventListener("click", () => now && look());
    document.addEventListener("themechange", () => {
      stage.setParameters({ backgroundColor: colour("--wash") });
      draw(choice.selectedIndex);
    });
    box.addEventListener("keydown", (event) => {
      const turn = { ArrowLeft: [0, 1], ArrowRight: [0, -1], ArrowUp: [1, 0], ArrowDown: [-1, 0] }[event.key];
      if (turn) {
        stage.viewerControls.spin({ x: turn[0], y: turn[1], z: 0 }, 0.15);
        event.preventDefault();
      }
      if (event.key === "+" || event.key === "-") stage.viewerControls.zoom(event.key === "+" ? 0.1 : -0.1);
    });
    document.addEventListener("pickrow", async ({ detail }) => {
      if (detail.viewer !== viewer.id) return;
      const row = Object.fromEntries(detail.columns.map((name, i) => [name, detail.row[i]]));
      const index = data.structures.findIndex((one) => one.name === row.id);
      if (index < 0) {
        said.textContent = `${row.id} is not among the structures shown here`;
        return;
      }
      if (index !== choice.selectedIndex) {
        choice.selectedIndex = index;
        await draw(index);
      }
      const chosen = [];
      const told = `${row.chain}|${row.number}|${row.insertion || ""}`;
      const where = data.structures[index].names[told] || told;
      now.structure.eachAtom((atom) => {
        if (place(atom) === where) chosen.push(atom.index);
      });
      if (!chosen.length) return;
      now.structure.eachAtom((atom) => atom.index === chosen[0] && tell(atom));
      now.autoView(`@${chosen.join(",")}`, 500);
      viewer.scrollIntoView({ block: "nearest" });
    });
    new ResizeObserver(() => stage.handleResize()).observe(box);
    return draw(0);
  };

  const fail = (error) => {
    for (const viewer of document.querySelectorAll(".viewer"))
      viewer.querySelector(".said").textContent = `The structure cannot be shown here: ${error.message || error}`;
  };
  unpack()
    .then((NGL) => Promise.all([...document.querySelectorAll(".viewer")].map((viewer) => start(NGL, viewer))))
    .catch(fail);
})();
