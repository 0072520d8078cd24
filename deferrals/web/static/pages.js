// What pages can do better with a script; they are whole without.
"use strict";
(function () {
  // Numbers, and recent transactions, as they change.
  var live = document.querySelector("[data-live-source]");
  if (live && window.EventSource) {
    var rows = document.querySelector("[data-live-rows]");
    var source = null;
    var button = document.createElement("button");
    button.type = "button";
    var word = document.createElement("span");
    word.className = "quiet";
    word.setAttribute("role", "status");
    live.append(button, " ", word);

    var cell = function (row, label, content) {
      var made = document.createElement("td");
      made.setAttribute("role", "cell");
      made.dataset.label = label;
      var inner = document.createElement("div");
      if (typeof content === "string") {
        var text = document.createElement("bdi");
        text.textContent = content;
        inner.append(text);
      } else {
        inner.append(content);
      }
      made.append(inner);
      row.append(made);
    };

    var added = function (message) {
      var one = JSON.parse(message.data);
      var isIt = function (link) { return link.textContent === one.transaction; };
      if (!rows || [].some.call(rows.querySelectorAll("a.id"), isIt)) return;
      var row = document.createElement("tr");
      row.setAttribute("role", "row");
      row.className = "new";
      row.dataset.id = one.transaction;
      var link = document.createElement("a");
      link.href = live.dataset.liveMessage + encodeURIComponent(one.transaction);
      link.textContent = one.transaction;
      link.className = "id";
      cell(row, "When", new Date(one.time).toLocaleTimeString());
      cell(row, "Id", link);
      cell(row, "Client", String(one.client));
      cell(row, "Sender", "<" + one.sender + ">");
      cell(row, "Accepted", one.accepted + " of " + one.recipients);
      cell(row, "Answer", String(one.reply));
      rows.prepend(row);
      while (rows.rows.length > 20) rows.deleteRow(-1);
    };

    var status = function (message) {
      var shown = JSON.parse(message.data).shown || {};
      document.querySelectorAll("[data-live]").forEach(function (place) {
        var text = shown[place.dataset.live];
        if (text !== undefined && place.textContent !== text) place.textContent = text;
      });
    };

    var stop = function () {
      if (source) source.close();
      source = null;
      button.textContent = "Follow what happens";
      word.textContent = "This page stands still.";
    };
    var start = function () {
      source = new EventSource(live.dataset.liveSource);
      source.addEventListener("transaction", added);
      source.addEventListener("status", status);
      source.onopen = function () { word.textContent = "This page follows what happens."; };
      source.onerror = function () { word.textContent = "Not connected."; };
      button.textContent = "Stand still";
    };
    button.addEventListener("click", function () { source ? stop() : start(); });
    start();
  }

  // All boxes of a list at once.
  document.querySelectorAll("[data-all]").forEach(function (place) {
    var label = document.createElement("label");
    var box = document.createElement("input");
    box.type = "checkbox";
    label.append(box, "all of this page");
    place.append(label);
    box.addEventListener("change", function () {
      place.closest("form").querySelectorAll("input[name=id]").forEach(function (one) {
        one.checked = box.checked;
      });
    });
  });
})();
