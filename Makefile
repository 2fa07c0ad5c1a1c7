# Each target is one call of scripts/host.py; those without make call it themselves.
# Arguments go through ARGS: make test ARGS="-k seed", make bench ARGS=quality
# ComfyUI checkouts through HOSTS: make hosts HOSTS="../ComfyUI-0.30.0 ../ComfyUI-0.33.0"
# Other node packs through PACKS: make hosts PACKS="../RES4LYF" HOSTS=../ComfyUI-0.30.0
PYTHON ?= python3

.PHONY: install demo ui test lint check bench bench-quality bench-speed bench-scale memory campaigns coverage hosts
install:
	$(PYTHON) scripts/host.py install $(ARGS)
demo:
	$(PYTHON) scripts/host.py demo $(ARGS)
ui:
	$(PYTHON) scripts/host.py ui $(ARGS)
test:
	$(PYTHON) scripts/host.py test $(ARGS)
lint:
	$(PYTHON) scripts/host.py lint
check:
	$(PYTHON) scripts/host.py check
bench:
	$(PYTHON) scripts/host.py bench $(ARGS)
bench-quality:
	$(PYTHON) scripts/host.py bench quality $(ARGS)
bench-speed:
	$(PYTHON) scripts/host.py bench speed $(ARGS)
bench-scale:
	$(PYTHON) scripts/host.py bench scale $(ARGS)
memory:
	$(PYTHON) scripts/host.py bench memory $(ARGS)
campaigns:
	$(PYTHON) scripts/host.py bench campaigns $(ARGS)
coverage:
	$(PYTHON) scripts/host.py coverage $(ARGS)
hosts:
	$(PYTHON) scripts/host.py hosts $(addprefix --pack ,$(PACKS)) $(HOSTS)
