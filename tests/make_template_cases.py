#!/usr/bin/env python3
"""Writes tests/fixtures/templates/cases.jsonl: chat templates and what transformers renders of them.

One object a line: {"t": template, "v": variables, "x": text} or, where rendering fails, "x": null.
Hand-written cases first, then random ones over a grammar of statements and expressions.
Needs transformers and jinja2. Usage: make_template_cases.py [N_RANDOM]
"""
import json
import os
import random
import sys
import time

os.environ["TZ"] = "UTC"
time.tzset()
import transformers.utils.chat_template_utils as hf

rnd = random.Random(7)
RAW = "{%- raw %}{{ x }}{%- endraw -%}"
V=dict(a=5,b=-3,f=1.5,g=0.1,s="Hello, Świat ß",e="",t="  trim me\n",l=[1,2,3,"x",None],l2=[3,1,2],ls=["b","A","c","a"],d={"k":1,"items":2,"z":"zz","n":None},o=[{"n":"x","v":1},{"n":"y","v":2},{"n":"X"}],yes=True,no=False,nil=None,u1="a,b,,c",big=12345678901,emp=[],ed={},u="\u00e9\u2003q\"uo'te\\ \n\t\x07 \U0001F642")
names=list(V)+["undef"]
L0=['length','upper','lower','trim','string','list','first','last','int','float','abs','tojson','capitalize','title','items|list','sort','unique|list','reverse|list','min','max','sum','dictsort','default("D")','default("D",true)','join("-")','join','replace("l","L")','indent','indent(2,true)','tojson(indent=2)','tojson(ensure_ascii=true)','map("upper")|list','map(attribute="n")|list','selectattr("v","defined")|list','selectattr("v","equalto",1)|list','rejectattr("v")|list','select("string")|list','reject("none")|list','select|list','sort(reverse=true)','sort(attribute="n")','round','round(1)','map("upper")','map(attribute="n")','selectattr("v")','reject("none")','unique','items','reverse','tojson(sort_keys=true)','dictsort(by="value")','unique(attribute="n")|list','escape','safe','count']
L1=['defined','undefined','none','string','mapping','iterable','sequence','number','integer','float','boolean','true','false','odd','even','divisibleby(2)','divisibleby 3','eq 1','equalto("x")','in [1,2]','in "xyz"','lower','upper','sameas none','ne 2','callable']
L2=['s','e','t','u1','u','"aXbXc"','("<a>X"|safe)','(u|e)']
L3=['upper()','lower()','strip()','lstrip()','rstrip()','split()','split(",")','split(",",1)','split(None,1)','startswith("He")','endswith(("b","c"))','replace("a","bb")','replace("","-")','replace("X","",1)','strip("aH")','title()','capitalize()','splitlines()','find("X")','rfind("X")','count("X")','partition(",")','rpartition(",")','rsplit(",",1)','join(["p","q"])','removeprefix("a")','isdigit()','isalpha()','isspace()','format(1,2)','foo','strip(1)','split("X")[0]','index("X")']
L4=['get("k")','get("w")','get("w",5)','items()','keys()|list','values()|list','pop("k")','copy()','items','keys()','values()']
def expr(d):
    k=rnd.random()
    if d<=0 or k<.22:
        return rnd.choice(names+names+["1","2","0","-1","'x'","\"a,b\"","'\\n'","1.5","true","none","[]","{}","[1,2]","{'q':1,'r':'s'}","(1,2)","loop.index" if False else "3"])
    E=lambda: expr(d-1)
    return rnd.choice([
     lambda:f"({E()} {rnd.choice('+ - * / // % ~ == != < > <= >= and or in'.split()+['not in'])} {E()})",
     lambda:f"{E()} {rnd.choice('+ - * ~ == != and or in < **'.split()+['not in'])} {E()}",
     lambda:f"not {E()}",
     lambda:f"-{E()}",
     lambda:f"({E()} if {E()} else {E()})",
     lambda:f"{E()} if {E()}",
     lambda:f"{rnd.choice(names)}[{E()}]",
     lambda:f"{rnd.choice(names)}.{rnd.choice(['k','items','z','n','v','q'])}",
     lambda:f"{rnd.choice(names)}[{rnd.choice(['','1','-2','0','a','10'])}:{rnd.choice(['','2','-1','b'])}{rnd.choice(['',':',':-1',':2',':-2'])}]",
     lambda:f"{E()}|{rnd.choice(L0)}",
     lambda:f"{E()} is {rnd.choice(['','not '])}{rnd.choice(L1)}",
     lambda:f"{rnd.choice(L2)}.{rnd.choice(L3)}",
     lambda:f"d.{rnd.choice(L4)}",
     lambda:f"l.{rnd.choice(['append(1)','index(2)','count(1)','index(9)'])}",
     lambda:f"range({rnd.choice(['3','a','1,4','5,0,-2','0'])})|list",
     lambda:f"'{{}}-{{}}'.format({E()},{E()})" if rnd.random()<.3 else f"'%s:%s' % ({E()}, {E()})",
     lambda:f"[{E()}, {E()}]", lambda:f"{{'a': {E()}, 'b': {E()}}}", lambda:f"dict(x={E()})", lambda:f"namespace(x={E()}).x",
     lambda:f"({E()}, {E()})",lambda:f"({E()},)",
     lambda:f"{E()} < {E()} <= {E()}",
    ])()
def ws(): return rnd.choice(['','',' ','\n','\n  ','  \n\n','x','x\n','\t'])
def tag(s):
    return '{%'+rnd.choice(['','-','','-','+'])+' '+s+' '+rnd.choice(['','-','','-','+'])+'%}'
def out(e): return '{{'+rnd.choice(['','-'])+' '+e+' '+rnd.choice(['','-'])+'}}'
def stmt(d):
    k=rnd.random()
    if d<=0 or k<.4: return ws()+out(expr(rnd.randint(0,3)))+ws()
    B=lambda: ''.join(stmt(d-1) for _ in range(rnd.randint(1,2)))
    return ws()+rnd.choice([
     lambda: tag('if '+expr(2))+B()+rnd.choice(['',tag('else')+B(),tag('elif '+expr(1))+B()+tag('else')+B()])+tag('endif'),
     lambda: tag('for i in '+rnd.choice(['l','l2','d','ls','o','emp','s','undef','range(3)','nil',expr(1)])+rnd.choice(['','',' if i',' if loop is undefined']))+rnd.choice(['',out('loop.index0'),out('loop.last'),out('loop.previtem'),out('loop.nextitem is defined'),out('loop.length'),out('loop.revindex'),tag('if i == 2')+tag(rnd.choice(['break','continue']))+tag('endif')])+out('i')+B()+rnd.choice(['',tag('else')+B()])+tag('endfor'),
     lambda: tag('for k, v in d.items()')+out('k')+'='+out('v')+B()+tag('endfor'),
     lambda: tag('set '+rnd.choice(['a','q','s','ns0'])+' = '+expr(2)),
     lambda: tag('set q')+B()+tag('endset')+out('q'),
     lambda: tag('set ns = namespace(n=0)')+tag('for i in l2')+tag('set ns.n = ns.n + i')+tag('endfor')+out('ns.n'),
     lambda: tag('macro m(x, y='+expr(1)+')')+out('x')+out('y')+B()+tag('endmacro')+out('m(1)')+out('m('+expr(1)+', y=2)'),
     lambda: tag('set q, r = '+rnd.choice(['1, 2','(a, b)','l2','d.items()|list']))+out('q'),
     lambda: tag('filter upper')+B()+tag('endfilter'),
     lambda: tag('generation')+B()+tag('endgeneration'),
     lambda: '{#'+rnd.choice(['','-'])+' c '+rnd.choice(['','-'])+'#}',
     lambda: '{%- raw %}{{ x }}{%- endraw -%}',
    ])()+ws()


CHAT = [{"role": "system", "content": " Bądź miły.\n"}, {"role": "user", "content": "Cześć 🙂"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\nDzień dobry"}, {"role": "user", "content": "a\n\nb"}]
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Pogoda \"<b>\"",
                                           "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]
CHAT_VARS = dict(messages=CHAT, tools=TOOLS, bos_token="<s>", eos_token="</s>", add_generation_prompt=True)
WRITTEN = [
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m.content | trim + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
    "{{ bos_token }}{%- set ns = namespace(system='', n=0) -%}{%- for m in messages if m.role != 'tool' -%}"
    "{%- if m.role == 'system' -%}{%- set ns.system = m.content -%}{%- else -%}{%- set ns.n = ns.n + 1 -%}"
    "[{{ ns.n }}:{{ loop.index0 }}/{{ loop.length }}]{{ m.content }}{%- endif -%}{%- endfor -%}{{ ns.system }}",
    "{%- for t in tools %}{{ t | tojson }}\n{{ t | tojson(indent=4) }}{{ t.function.parameters.properties | items | list }}{% endfor %}",
    "{%- macro show(m, sep='\\n') -%}{{ m.role }}{{ sep }}{{ m['content'].split('</think>')[-1].lstrip('\\n') }}{%- endmacro -%}"
    "{% for m in messages %}{{ show(m) }}{{ show(m, sep='/') }}{% endfor %}",
    "{% for m in messages %}{% if loop.previtem is defined and loop.previtem.role == m.role %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.role }}{% endfor %}",
    "{{ raise_exception('always') }}",
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
    "{{ rest | length }}{% for m in rest[::-1] %}{{ m.role }}{% if loop.index == 2 %}{% break %}{% endif %}{% endfor %}",
    "{% set x %}\n  {{ bos_token }}\n{% endset %}[{{ x }}][{{ x | trim }}]",
    "  {% if true %}\n  a\n  {% endif %}\n  b {#- c -#}  d\n",
    "{{ messages[9]['role'] }}", "{{ nothing.at.all }}", "{{ nothing }}{{ nothing is defined }}{{ nothing | default('d') }}",
    "{{ tools is not none and tools is iterable and tools is not mapping }}", "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }}",
    "{{ strftime_now('%Y') | length }}", "{{ messages.append(1) }}", "{{ messages.__class__ }}", "{{ ''.__class__.__mro__ }}",
    "{% generation %}{{ messages[1].content }}{% endgeneration %}", "{{ 'żółw'[1:3] }}{{ 'żółw'[-1] }}{{ 'żółw' | length }}{{ 'żółw' | upper }}",
    "{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 1e16 }} {{ 0.1 + 0.2 }} {{ 1.0 }} {{ 1e-7 }} {{ 123456789012345680.0 }}",
    "{{ range(100001) | length }}", "{{ {'a': 1}.a }}{{ {'items': 3}['items'] }}", "{% include 'x' %}", "{{ 1 if }}", "{{ 'a", "{% if %}{% endif %}",
    # marked texts escape what is added to them
    "{{ ('<a>' | safe) + '<b>' }}{{ '<c>' + ('<a>' | safe) }}{{ ('%s' | safe) % '<x>' }}{{ ('<a>' | safe) ~ '<b>' }}",
    "{{ ('-' | safe).join(['<a>', '<b>' | safe]) }}{{ ('{}' | safe).format('<') }}{{ ['<' | safe] }}{{ ('<a b>' | safe).split() }}",
    "{{ ('ab' | safe).replace('a', '<') }}{{ ('ab' | safe) | replace('a', '<') }}{{ ('ab' | safe)[1:] + '<' }}{{ '<' | e + '<' }}",
    # generators: true though empty, gone through once, of no length, not JSON; views of dicts
    "{{ 'x' if messages | selectattr('role', 'equalto', 'nobody') else 'y' }}",
    "{% set it = messages | map(attribute='role') %}{{ it | first }},{{ it | join(',') }}|{{ it | join(',') }}",
    "{{ messages | map(attribute='role') | tojson }}", "{{ messages | map(attribute='role') | length }}", "{{ messages | reverse | last }}",
    "{{ messages[0].items() }}{{ messages[0].keys() | list }}{{ messages[0].values() | length }}{{ messages[0].keys()[0] is defined }}",
    "{{ messages[0].keys() | tojson }}", "{{ self.blocks }}{{ self is defined }}", "{{ 'a-b c.d (e' | title }}{{ 'a.b'.title() }}{{ 5 | round }}{{ 5.5 | round }}{{ true | round }}",
    "{% for a in [1,2] %}{% for b in [3,4] %}{{ loop.index }}{{ a }}{{ b }}{% else %}none{% endfor %}{% endfor %}",
]


def expected(template, variables):
    try:
        return hf._cached_compile_jinja_template(template).render(**variables)
    except Exception:
        return None


def main():
    out = [(t, CHAT_VARS) for t in WRITTEN]
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 400):
        out.append(("".join(stmt(2) for _ in range(rnd.randint(1, 3))) + rnd.choice(["", "\n", "\n\n", "\r\n"]), None))
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures", "templates")
    os.makedirs(path, exist_ok=True)
    with open(os.path.join(path, "cases.jsonl"), "w") as f:
        print(json.dumps(V, ensure_ascii=False), file=f)
        for t, v in out:
            x = expected(t, V if v is None else v)
            if x is not None and " at 0x" in x:
                continue  # prints objects of Python itself
            if x is None and v is None and rnd.random() < 0.7:
                continue  # enough of those
            print(json.dumps({"t": t, "x": x} if v is None else {"t": t, "v": v, "x": x}, ensure_ascii=False), file=f)


main()
