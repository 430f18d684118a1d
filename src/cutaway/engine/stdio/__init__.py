"""A process's standard streams between containerd's FIFOs and the API's clients.

shim ──▶ FIFO ──▶ fifo.Reader ──▶ hub.Hub ─┬▶ logs.writer (json-file)
                                           └▶ Client ... (attach, exec; framing by framing.py)
shim ◀── FIFO ◀── fifo.Writer ◀── pump.pump_stdin ◀── client's connection (detach.py looks for keys)
"""
